"""What the runtime adds to its backend: per call, in a stream, and at the start.

    python -m benchmarks.runtime_cost PACKAGE --json FILE

Calls of the backend and of the Explainer are timed side by side on one random image; the overhead is the
median of the differences, with a bootstrap interval, and `control` is the backend against itself.
`graph size`: the image needs no resizing.  `resized`: the image has the grid's own height and width, which
the encoder's transform (crop_pct below 1) enlarges before it cuts.  A stream is timed against the bare loop
over the backend, ten frames at a time.  A cold start is a fresh interpreter for each, with the package in
the page cache.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.interleave import Call, interleave
from benchmarks.common.record import command, finish
from runtime.backends.choice import NAMES
from runtime.explainer import Explainer
from runtime.media.geometry import Geometry
from runtime.package.folder import Package

MODEL = ("model.onnx", "model.onnx.data")
FRAMES = 10
"""Number of images of a stream in one turn."""

COLD = """
import json, sys, time
began = time.perf_counter()
from runtime import Explainer
imported = time.perf_counter()
explainer = Explainer(sys.argv[1], backend=sys.argv[2])
ready = time.perf_counter()
import numpy as np
side = explainer.manifest.input
image = np.zeros((side.height, side.width, 3), np.uint8)
explainer(image)
first = time.perf_counter()
for _ in range(10):
    explainer(image)
(kilobytes,) = (int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss:"))
print(json.dumps({
    "import_s": imported - began, "ready_s": ready - imported, "first_explanation_s": first - imported,
    "rss_mb": kilobytes * 1024 / 1e6,
}))
"""


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; returns 0."""
    parser = command("runtime_cost", __doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--backend", choices=NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of calls (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="turns of a stream (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="interpreters (default: %(default)s)")
    options = parser.parse_args(argv)
    with Explainer(options.package, backend=options.backend) as explainer:
        facts = {
            "backend": explainer.backend.why,
            "precision": explainer.backend.precision,
            "model": explainer.manifest.encoder.id,
        }
        rows = [*call_rows(explainer, pairs=options.pairs), stream_row(explainer, turns=options.turns)]
    rows.append(cold_row(options.package, options.backend, starts=options.starts))
    return finish(options.json, [{**facts, **row} for row in rows])


def call_rows(explainer: Explainer, *, pairs: int) -> list[dict[str, Any]]:
    """The Explainer's call against the backend's run, and the backend against itself."""
    backend, grid = explainer.backend, _grid(explainer)
    whole = unresized(Geometry.from_record(explainer.manifest.input))
    images = {"graph size": random_image(whole)}
    if whole != grid:
        images["resized"] = random_image(grid)
    batch = random_image(grid)[None]
    rows = [_pairs("control", lambda: backend.run(batch), lambda: backend.run(batch), pairs=pairs)]
    for name, image in images.items():
        call = functools.partial(explainer, image)
        row = _pairs(name, lambda: backend.run(batch), call, pairs=pairs)
        rows.append({**row, "image": list(image.shape)})
    return rows


def stream_row(explainer: Explainer, *, turns: int) -> dict[str, Any]:
    """Frames a second of a stream whose masks are read, of calls one by one, and of the bare backend."""
    frames = [random_image(unresized(Geometry.from_record(explainer.manifest.input)))] * FRAMES
    run, batch = explainer.backend.run, random_image(_grid(explainer))[None]
    loops: dict[str, Call] = {
        "backend": lambda: [run(batch) for _ in range(FRAMES)],
        "calls": lambda: [explainer(frame).mask for frame in frames],
        "stream": lambda: [explanation.mask for explanation in explainer.stream(frames)],
    }
    times = interleave(loops, rounds=turns, warm_up=1)
    rates = {f"{name}_fps": 1e3 * FRAMES / float(np.median(own)) for name, own in times.items()}
    return {
        "variant": "stream",
        **rates,
        "stream_to_backend": rates["stream_fps"] / rates["backend_fps"],
        "n": turns,
    }


def cold_row(package: Path, backend: str, *, starts: int) -> dict[str, Any]:
    """Medians over fresh interpreters: seconds to ready and to the first explanation; MB (10⁶) resident."""
    command = [sys.executable, "-c", COLD, str(package), backend]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(starts)
    ]
    opened = Package.open(package)
    model = sum(opened.file(name).stat().st_size for name in opened.manifest.files if name in MODEL) / 1e6
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    most = max(run["rss_mb"] for run in runs)
    return {
        "variant": "cold start",
        **medians,
        "ready_s_worst": max(run["ready_s"] for run in runs),
        "model_mb": model,
        "rss_beyond_model_mb": most - model,
        "n": starts,
    }


def unresized(geometry: Geometry) -> tuple[int, int]:
    """Height and width of the smallest image that the geometry cuts without resizing it.

    Raises:
        StopIteration: there is none below 1.5 times the grid.
    """

    def sizes() -> Iterator[tuple[int, int]]:
        for extra in range(max(geometry.height, geometry.width) // 2):
            yield geometry.height + extra, geometry.width + extra

    def is_cut(height: int, width: int) -> bool:
        left, top, right, bottom = geometry.place(height, width).box
        cut = right - left == geometry.width and bottom - top == geometry.height
        return cut and left == int(left) and top == int(top)

    return next(size for size in sizes() if is_cut(*size))


def interval(differences: NDArray[np.float64], *, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    picks = np.random.default_rng(0).integers(0, len(differences), (draws, len(differences)))
    low, high = np.percentile(np.median(differences[picks], axis=1), (2.5, 97.5))
    return float(low), float(high)


def random_image(size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _pairs(variant: str, bare: Call, call: Call, *, pairs: int) -> dict[str, Any]:
    times = interleave({"backend": bare, "call": call}, rounds=pairs, warm_up=3)
    percentiles = {
        f"{name}_{quantile}_ms": float(np.percentile(own, q))
        for name, own in times.items()
        for quantile, q in (("median", 50), ("p95", 95), ("p99", 99))
    }
    differences = times["call"] - times["backend"]
    low, high = interval(differences)
    overhead = float(np.median(differences))
    return {
        "variant": variant,
        **percentiles,
        "overhead_ms": overhead,
        "overhead_ms_ci": [low, high],
        "overhead_percent": 100 * overhead / percentiles["backend_median_ms"],
        "n": pairs,
    }


def _grid(explainer: Explainer) -> tuple[int, int]:
    side = explainer.manifest.input
    return side.height, side.width


if __name__ == "__main__":
    sys.exit(main())
