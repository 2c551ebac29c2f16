"""The summary of gpu_check for people: goals and figures, then every measurement, and what did not run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.markdown import Columns, records, table

FILES = ("environment.json", "torch.json", "parity.json", "engines.json", "training.json", "tests.jsonl")
Results = dict[str, dict[str, Any]]
"""File, without its suffix → its JSON; of `tests.jsonl` the lines are `rows`."""
Row = dict[str, Any]
Goal = tuple[str, str, str]
"""Quantity, goal, measured value."""
NOT_MEASURED = "not measured"
_ENGINE, _TORCH = "an engine", "PyTorch's CUDA graph, no engine"


def read(out: Path) -> Results:
    """The files of a run that are there; each is complete, because it is written atomically or by lines."""
    found = {path.stem: path.read_text() for path in map(out.joinpath, FILES) if path.is_file()}
    if "tests" in found:
        found["tests"] = f'{{"rows": [{",".join(found["tests"].splitlines())}]}}'
    return {name: json.loads(text) for name, text in found.items()}


def summary(results: Results) -> list[str]:
    """Lines of Markdown."""
    parts = {
        "Parity with the package's reference": _parity(results.get("parity", {})),
        "Latency": _latency([*_rows(results, "engines"), *_rows(results, "torch")]),
        "Training": _training(_rows(results, "training")),
        "Our CUDA code, and tests on the GPU": _tests(_rows(results, "tests")),
        "What did not run": _not_run(results),
        "Seconds": _seconds(results.get("environment", {})),
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
    for row in _rows(results, "tests"):
        if "run_device_adds_us" in row:
            return (
                f"run {row['run_adds_us']:.1f} µs, run_device {row['run_device_adds_us']:.1f} µs "
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
    said = [_verdict(e) for e in parity.get("engines", []) if e["flavour"] == "rtx"]
    said += [e["why"] for e in parity.get("skipped", []) if e["what"] == "parity of rtx engines"]
    return "; ".join(dict.fromkeys(said)) or None


def _verdict(engine: Row) -> str:
    """The result of one engine: TensorRT-RTX's verdict on the plan, then how far the engine came."""
    valid = engine.get("validity")
    words = [] if valid is None else [" ".join([valid["answer"], *valid["reasons"]])]
    stage = engine.get("stage", "start")
    if "error" in engine:
        words.append(f"{stage}: {engine['error'].splitlines()[0]}")
    elif stage != "done":
        words.append(f"ended during {stage}")
    else:
        if "degraded" in engine:
            words.append(
                f"no graph: {engine['degraded']}" if engine["degraded"] else "runs with a CUDA graph"
            )
        words.append(f"beyond the gate: {engine['failures']}" if engine["failures"] else "within the gate")
        words.append(f"opened in {' then '.join(f'{s:.1f}' for s in engine['opened_seconds'])} s")
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


def _parity(parity: Row) -> Iterator[str]:
    for engine in parity.get("engines", []):
        yield f"- {engine['engine']}: {_verdict(engine)}"


def _tests(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        errors = [line[1:] for line in row["message"].splitlines() if line.startswith("E ")]
        said = " ".join(" ".join([row.get("detail", ""), *(errors or [row["message"]])]).split())
        outcome = "**FAILED**" if row["outcome"] == "failed" else row["outcome"]
        test = row["test"].rpartition("::")[2]
        yield f"- {outcome}: {test} ({row['seconds']:.1f} s) {said[:300]}".rstrip()


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
    for step, crashed in results.get("environment", {}).get("crashed", {}).items():
        last = (crashed["printed"].strip().splitlines() or [""])[-1]
        yield f"- **{step}: ended with status {crashed['returncode']}**: {last}"


def _seconds(environment: Row) -> Iterator[str]:
    if took := environment.get("seconds"):
        yield ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())


if __name__ == "__main__":  # python -m benchmarks.gpu.summary OUTDIR: of a check that was stopped
    print("\n".join(summary(read(Path(sys.argv[1])))))
