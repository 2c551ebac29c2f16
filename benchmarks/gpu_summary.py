"""The readable half of gpu_check: the goals and whether they were met, every figure, what did not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Results = dict[str, dict[str, Any]]
"""Step → its JSON."""
Goal = tuple[str, str, float | None, str]
"""What, the goal in words, the figure, its unit."""


def summary(results: Results) -> list[str]:
    """Lines of Markdown."""
    return [
        *_environment(results.get("environment", {})),
        *("", "| goal | wanted | measured |", "|---|---|---|"),
        *(_goal(goal) for goal in goals(results)),
        *("", "## Parity with fp32 on the CPU", *_parity(results.get("parity", {}))),
        *("", "## Tests on the GPU", *_tests(results.get("tests", {}))),
        *("", "## Latency", *_latency([*_rows(results, "latency"), *_rows(results, "engines")])),
        *("", "## Training", *_training(_rows(results, "training"))),
        *("", "## What did not run", *_not_run(results)),
    ]


def goals(results: Results) -> list[Goal]:
    """Of an engine at batch 1; None where none ran.  A figure of PyTorch never stands for an engine's."""
    engines = [row for row in _rows(results, "engines") if row["batch"] == 1]
    graphed = {row["variant"]: row for row in engines if row["backend"].endswith("cuda graph")}
    overhead = {row["variant"]: row for row in engines if row["backend"].startswith("overhead")}
    eager = [r for r in _rows(results, "latency") if r["backend"] == "torch eager" and r["batch"] == 1]
    authors = next((row for row in eager if row["variant"] == "authors_way"), None)
    fused = graphed.get("fused")
    graph, ours = overhead.get("cuda graph"), overhead.get("explainer.run_device")
    ratio = fused["ratio_to_encoder"] if fused else None
    spread = fused["p99_ms"] / fused["median_ms"] if fused else None
    added = 1e3 * (ours["wall_median_ms"] - graph["wall_median_ms"]) if graph and ours else None
    faster = authors["median_ms"] / fused["median_ms"] if fused and authors else None
    return [
        ("fused engine against the encoder alone, CUDA graph", "≤ 1.05", ratio, ""),
        ("p99 / p50 of the fused engine", "≤ 1.10", spread, ""),
        ("what the Explainer adds to a graph's launch", "≤ 50 µs", added, " µs"),
        ("fused engine against PyTorch eager as the authors run it", "≥ 5 times faster", faster, " times"),
    ]


def _rows(results: Results, step: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = results.get(step, {}).get("rows", [])
    return rows


def _environment(found: dict[str, Any]) -> Iterator[str]:
    devices = found.get("devices") or []
    yield "# " + (", ".join(device["name"] for device in devices) or "No GPU was used")
    if devices:
        yield f"driver for CUDA {found['driver']['cuda']}, capability {devices[0]['compute_capability']}"
    for flavour, said in found.get("tensorrt", {}).items():
        yield f"- {flavour}: {said.splitlines()[0]}"


def _goal(goal: Goal) -> str:
    what, wanted, figure, unit = goal
    return f"| {what} | {wanted} | " + ("not measured" if figure is None else f"{figure:.3f}{unit}") + " |"


def _parity(parity: dict[str, Any]) -> Iterator[str]:
    for engine in parity.get("engines", []):
        said = engine.get("error") or engine.get("failures")
        stage = "within the gate" if engine.get("stage") == "done" else f"stopped at {engine.get('stage')}"
        yield f"- {engine['engine']}: {said or stage}"


def _tests(tests: dict[str, Any]) -> Iterator[str]:
    for test in tests.get("tests", []):
        yield f"- {test['outcome']}: {test['test']} ({test['seconds']:.1f} s)"
    if "soak" in tests:
        yield "- soak: " + ", ".join(f"{name} {value}" for name, value in tests["soak"].items())


def _latency(rows: list[dict[str, Any]]) -> Iterator[str]:
    if rows:
        yield "| backend | variant | model | batch | median ms | p99 ms | of encoder | J per frame |"
        yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        ratio, joules = row["ratio_to_encoder"], row.get("joules_per_frame")
        cells = (
            *(f"{row['backend']} {row['precision']}", row["variant"], f"{row['model']}@{row['image_size']}"),
            *(row["batch"], f"{row['median_ms']:.3f}", f"{row['p99_ms']:.3f}"),
            *(f"{ratio:.3f}" if ratio else "", f"{joules:.4f}" if joules else ""),
        )
        yield "| " + " | ".join(map(str, cells)) + " |"


def _training(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield (
            f"- {row['variant']}: {row['images_per_second']:.1f} images/s, "
            f"{row['ratio_to_authors_loop']:.2f} of the authors' loop"
        )


def _not_run(results: Results) -> Iterator[str]:
    for step, result in results.items():
        yield from (f"- {entry['what']}: {entry['why']}" for entry in result.get("skipped", []))
        if "crashed" in result:
            crashed = result["crashed"]
            last = (crashed["stderr"].strip().splitlines() or [""])[-1]
            yield f"- **{step}: ended with status {crashed['returncode']}**: {last}"
