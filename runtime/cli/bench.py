"""Measure how fast a package is on this device, without torch, and report clocks and power mode."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.backends.base import EmbeddingBackend, TargetBackend
from runtime.cli import jetson
from runtime.explainer import Explainer
from runtime.media.decode import pillow

BATCHES = (1, 8, 32)
"""Batch sizes that are timed, up to the largest of the backend."""
_FEWEST = 20
_WARM_UP = 3


class Row(NamedTuple):
    """One line of the table."""

    what: str
    batch: int
    median_ms: float
    """Milliseconds of one run of the whole batch."""
    p95_ms: float
    p99_ms: float
    images_per_second: float
    n: int
    """Number of timed runs."""


class Conditions(NamedTuple):
    """Settings of the machine that the times depend on."""

    power_mode: str | None
    """The power mode of a Jetson; None on other machines."""
    clocks: str
    warnings: tuple[str, ...]


def bench(
    explainer: Explainer,
    embedding_only: EmbeddingBackend | None = None,
    targets: TargetBackend | None = None,
    *,
    seconds: float,
) -> list[Row]:
    """Time the backend for each batch size it takes, then whole calls from a JPEG.

    Args:
        embedding_only: a backend that computes no mask; timed too if given.
        targets: a backend that takes targets; timed too if given.
        seconds: duration of each measurement; it has at least 20 runs.
    """
    size, dimension = explainer.manifest.input, explainer.manifest.encoder.dimension
    rng = np.random.default_rng(0)
    backend, rows = explainer.backend, []
    ways: list[tuple[str, int, Callable[[np.ndarray], Any]]]
    ways = [("embedding and mask", backend.max_batch, backend.run)]
    if embedding_only is not None:
        ways.append(("embedding alone", embedding_only.max_batch, embedding_only.embed))
    if targets is not None:
        toward = np.ones((targets.max_batch, dimension), np.float32)
        run_toward = targets.run_toward
        ways.append(("toward targets", targets.max_batch, lambda x: run_toward(x, toward[: len(x)])))
    for what, most, run in ways:
        for batch in (b for b in BATCHES if b <= most):
            images = rng.integers(0, 256, (batch, size.height, size.width, 3), dtype=np.uint8)
            rows.append(_row(what, batch, _timed(partial(run, images), seconds)))
    jpeg = _jpeg(rng)
    rows.append(_row("from a JPEG of 640 × 480", 1, _timed(lambda: explainer(jpeg).mask, seconds)))
    return rows


def conditions(root: Path = Path("/")) -> Conditions:
    """Read the clocks and the power mode; changes nothing."""
    board = jetson.read(root)
    if board is not None:
        loose = [name for name, held in board.clocks.items() if not held]
        warnings = [f"the {name} clock is not locked: sudo jetson_clocks" for name in loose]
        said = ", ".join(f"{name} {'held' if held else 'free'}" for name, held in board.clocks.items())
        return Conditions(board.power_mode, said or "not known", tuple(warnings))
    if said := _nvidia_clocks():
        warning = "whether the GPU's clocks are locked is not known: sudo nvidia-smi -lgc MHZ,MHZ locks them"
        return Conditions(None, said, (warning,))
    return _cpu(root / "sys/devices/system/cpu/cpu0/cpufreq")


def table(rows: list[Row], found: Conditions) -> str:
    """The rows and the conditions as text, to paste into an issue."""
    lines = [f"{'':26}{'batch':>6}{'median':>10}{'p95':>10}{'p99':>10}{'images/s':>10}{'n':>7}"]
    lines += [
        f"{r.what:26}{r.batch:6}{r.median_ms:8.2f}ms{r.p95_ms:8.2f}ms{r.p99_ms:8.2f}ms"
        f"{r.images_per_second:10.1f}{r.n:7}"
        for r in rows
    ]
    lines.append(f"clocks {found.clocks}" + (f"; power mode {found.power_mode}" if found.power_mode else ""))
    return "\n".join([*lines, *(f"warning: {warning}" for warning in found.warnings)])


def to_json(rows: list[Row], found: Conditions) -> dict[str, Any]:
    """The rows and the conditions as plain values."""
    return {"rows": [row._asdict() for row in rows], **found._asdict()}


def _timed(call: Callable[[], Any], seconds: float) -> np.ndarray:
    """Seconds of each run, after a warm-up; `call` must return only when its results are ready."""
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _FEWEST or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return np.array(times)


def _row(what: str, batch: int, times: np.ndarray) -> Row:
    median, p95, p99 = (float(q) for q in 1e3 * np.percentile(times, (50, 95, 99)))
    return Row(what, batch, median, p95, p99, 1e3 * batch / median, len(times))


def _jpeg(rng: np.random.Generator) -> bytes:
    """A JPEG of enlarged coarse noise, about as detailed as a photograph."""
    image = pillow()
    coarse = image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((640, 480), image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _nvidia_clocks() -> str:
    """The first GPU's clocks, as nvidia-smi prints them; empty if there is no GPU."""
    query = "--query-gpu=name,clocks.sm,clocks.max.sm,power.draw,power.limit"
    said = jetson.printed_by("nvidia-smi", query, "--format=csv,noheader")
    if not said:
        return ""
    name, now, most, power, limit = said.splitlines()[0].split(", ")
    return f"{name}: {now} of {most}, {power} of {limit}"


def _cpu(folder: Path) -> Conditions:
    names = ("scaling_governor", "scaling_min_freq", "cpuinfo_max_freq")
    governor, low, high = (jetson.system_text(folder / name) for name in names)
    if not (governor and low and high):
        return Conditions(None, "not known (cannot be read on this machine)", ())
    held = governor == "performance" or low == high
    cure = "sudo cpupower frequency-set -g performance"
    warning = f"the CPU's clock is not locked (governor {governor}): {cure}"
    return Conditions(None, f"CPU, governor {governor}", () if held else (warning,))
