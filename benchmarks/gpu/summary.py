"""The summary of gpu_check for people: goals and figures, then every measurement, and what did not run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.common.markdown import Columns, records, table

Results = dict[str, dict[str, Any]]
"""File → its JSON."""
Row = dict[str, Any]
Goal = tuple[str, str, str]
"""Quantity, goal, measured value."""
NOT_MEASURED = "not measured"
_ENGINE, _TORCH = "an engine", "PyTorch's CUDA graph, no engine"


def summary(results: Results) -> list[str]:
    """Lines of Markdown."""
    parts = {
        "Our CUDA code": _checks(results.get("cuda", {})),
        "Parity with fp32 on the CPU": _parity(results.get("parity", {})),
        "Latency": _latency([*_rows(results, "engines"), *_rows(results, "torch")]),
        "Training": _training(_rows(results, "training")),
        "Tests on the GPU": _tests(results.get("tests", {})),
        "What did not run": _not_run(results),
        "Seconds": _seconds(results),
    }
    lines = [*_environment(results.get("environment", {})), ""]
    lines += table(("goal", "wanted", "measured"), goals(results)).splitlines()
    for title, part in parts.items():
        if found := list(part):
            lines += ["", f"## {title}", *found]
    return lines


def goals(results: Results) -> list[Goal]:
    """The goals, for one image.  Figures come from an engine, or else from PyTorch's CUDA graph; they say so.

    A dry run gives no figures; only the result of TensorRT-RTX is shown.
    """
    graphs = _of(_rows(results, "engines"), "cuda graph")
    source = _ENGINE if graphs else _TORCH
    graphs = graphs or _of(_rows(results, "torch"), "cuda graph")
    fused = graphs.get("fused")
    found = [
        ("encoder with mask against the encoder alone", "≤ 1.05, better 1.03", _ratio(fused, source)),
        ("p99 / p50, from idle to idle", "≤ 1.10", _spread(fused, source)),
        ("time that our runtime adds to a graph's launch", "≤ 50 µs", _added(results)),
        (
            "fused engine against PyTorch eager as the authors run it",
            "≥ 5 times faster",
            _speedup(fused, results, source),
        ),
        ("training throughput against the authors' loop", "as high as possible", _trained(results)),
    ]
    if source == _ENGINE and (toward := graphs.get("toward")):
        what = "encoder with mask for a target against the encoder alone"
        found.insert(1, (what, "≤ 1.07", _ratio(toward, source)))
    if results.get("environment", {}).get("dry"):
        found = [(what, wanted, None) for what, wanted, _ in found]
    found.append(("TensorRT-RTX on this GPU", "runs, with a graph, within the gate", _rtx(results)))
    return [(what, wanted, measured or NOT_MEASURED) for what, wanted, measured in found]


def _ratio(row: Row | None, source: str) -> str | None:
    """Time as a multiple of the encoder's, with the interval; None if the encoder was not timed."""
    if not row or not row["ratio_to_encoder"]:
        return None
    return f"{row['ratio_to_encoder']:.3f}{_interval(row['ratio_ci'], 3)} ({source})"


def _interval(ends: list[float] | None, digits: int) -> str:
    return "" if ends is None else f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _spread(row: Row | None, source: str) -> str | None:
    return f"{row['wall_p99_ms'] / row['wall_median_ms']:.3f} ({source})" if row else None


def _speedup(fused: Row | None, results: Results, source: str) -> str | None:
    """Speed against the authors' way in eager mode; None unless encoder and size are equal."""
    eager = _of(_rows(results, "torch"), "torch eager").get("authors_way")
    if not fused or not eager or any(fused[key] != eager[key] for key in ("model", "image_size")):
        return None
    return f"{eager['median_ms'] / fused['median_ms']:.1f} times ({source})"


def _of(rows: Iterable[Row], backend: str) -> dict[str, Row]:
    """Rows of one image, by variant."""
    return {r["variant"]: r for r in rows if r["batch"] == 1 and r["backend"].endswith(backend)}


def _added(results: Results) -> str | None:
    rows = {r["variant"]: r for r in _rows(results, "engines") if r["backend"].startswith("overhead")}
    if rows:
        added = 1e3 * (rows["explainer.run_device"]["wall_median_ms"] - rows["bare"]["wall_median_ms"])
        return f"{added:.1f} µs (run_device, {_ENGINE})"
    for check in results.get("cuda", {}).get("checks", []):
        if "run_device_adds_us" in check:
            return (
                f"run {check['run_adds_us']:.1f} µs, run_device {check['run_device_adds_us']:.1f} µs "
                "(a stand-in engine of our own kernel)"
            )
    return None


def _trained(results: Results) -> str | None:
    ours = next((r for r in _rows(results, "training") if r["variant"] == "our_loop"), None)
    if ours is None:
        return None
    times = f"{ours['ratio_to_authors_loop']:.2f} times{_interval(ours['ratio_ci'], 2)}"
    return f"{times} ({ours['rounds']} rounds)"


def _rtx(results: Results) -> str | None:
    parity = results.get("parity", {})
    said = [_verdict(e) for e in parity.get("engines", []) if e["record"]["flavour"] == "rtx"]
    said += [e["why"] for e in parity.get("skipped", []) if e["what"] == "parity of rtx engines"]
    return "; ".join(dict.fromkeys(said)) or None


def _verdict(engine: Row) -> str:
    """The result of one engine: TensorRT-RTX's verdict on the plan, then how far the engine came."""
    valid = engine.get("validity")
    words = [] if valid is None else [" ".join([valid["answer"], *valid["reasons"]])]
    if engine.get("refused"):
        words.append("refused by the runtime: " + engine["refused"].splitlines()[-1].strip())
    if engine.get("stage") == "done":
        words.append(f"no graph: {engine['degraded']}" if engine["degraded"] else "runs with a CUDA graph")
        words.append(f"beyond the gate: {engine['failures']}" if engine["failures"] else "within the gate")
    elif "error" in engine:
        words.append(f"{engine.get('stage', 'before opening')}: {engine['error'].splitlines()[0]}")
    else:
        words.append(f"ended during {engine.get('stage', 'validation')}")
    return ", ".join(words).replace("|", "/").replace("\n", " ")


def _rows(results: Results, file: str) -> list[Row]:
    rows: list[Row] = results.get(file, {}).get("rows", [])
    return rows


def _environment(found: Row) -> Iterator[str]:
    devices = found.get("devices") or []
    yield "# " + (", ".join(device["name"] for device in devices) or "No GPU was used")
    if found.get("dry"):
        yield "**A dry run: it shows that every step starts; its figures mean nothing.**"
    if devices:
        yield f"driver for CUDA {found['driver']['cuda']}, capability {devices[0]['compute_capability']}"
    for flavour, said in found.get("tensorrt", {}).items():
        yield f"- {flavour}: {said.splitlines()[0]}"
    if "package" in found:
        yield f"- package: {found['package']}"


def _checks(cuda: Row) -> Iterator[str]:
    words = {True: "passed", False: "**FAILED**", None: "not made"}
    for check in cuda.get("checks", []):
        detail = check["detail"].splitlines()[0] if check["detail"] else ""
        yield f"- {words[check['passed']]}: {check['check']}" + (f" ({detail})" if detail else "")
    if "running" in cuda:
        yield f"- **did not end**: {cuda['running']}"
    yield from _soak(cuda)


def _soak(result: Row) -> Iterator[str]:
    if "soak" in result:
        yield "- soak: " + ", ".join(f"{name} {value}" for name, value in result["soak"].items())


def _parity(parity: Row) -> Iterator[str]:
    for engine in parity.get("engines", []):
        yield f"- {engine['engine']}: {_verdict(engine)}"
    for one in parity.get("provider", []):
        if "parity" not in one:
            said = one.get("error", "ended while it was opened").splitlines()[0]
            yield f"- ep-rtx, {one['precision']}: {said}"
        else:
            opened = " then ".join(f"{one[f'{which}_opening_seconds']:.1f}" for which in ("first", "second"))
            error = one["parity"]["embedding_error"]
            yield f"- ep-rtx, {one['precision']}: error {error:.1e}; opened in {opened} s; {one['why']}"


def _tests(tests: Row) -> Iterator[str]:
    for test in tests.get("tests", []):
        yield f"- {test['outcome']}: {test['test']} ({test['seconds']:.1f} s)"
    yield from _soak(tests)


def _latency(rows: list[Row]) -> Iterator[str]:
    columns: Columns = {
        "backend": lambda r: f"{r['backend']} {r['precision']}",
        "variant": "variant",
        "model": lambda r: f"{r['model']}@{r['image_size']}",
        "batch": "batch",
        "ms": lambda r: f"{r['median_ms']:.3f}",
        "idle to idle, ms": lambda r: f"{r['wall_median_ms']:.3f}",
        "p99": lambda r: f"{r['wall_p99_ms']:.3f}",
        "of encoder": lambda r: f"{r['ratio_to_encoder']:.3f}" if r["ratio_to_encoder"] else "",
        "J per frame": lambda r: f"{r['joules_per_frame']:.4f}" if r.get("joules_per_frame") else "",
    }
    if rows:
        yield from records(rows, columns).splitlines()


def _training(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        yield (
            f"- {row['variant']}: {row['images_per_second']:.1f} images/s, "
            f"{row['ratio_to_authors_loop']:.2f} of the authors' loop ({row['rounds']} rounds)"
        )


def _not_run(results: Results) -> Iterator[str]:
    for result in results.values():
        yield from (f"- {entry['what']}: {entry['why']}" for entry in result.get("skipped", []))
        for step, crashed in result.get("crashed", {}).items():
            last = (crashed["stderr"].strip().splitlines() or [""])[-1]
            yield f"- **{step}: ended with status {crashed['returncode']}**: {last}"


def _seconds(results: Results) -> Iterator[str]:
    took = {name: s for result in results.values() for name, s in result.get("seconds", {}).items()}
    if took:
        yield ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
