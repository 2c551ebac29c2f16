"""Many images and a video through `explain`, beside the bare backend: rate and memory.

    python -m benchmarks.throughput PACKAGE --json FILE

Images: JPEGs of 640 × 480 cut from scikit-image's photographs; decoded, explained, overlay and mask
written.  They go in blocks, each after a loop over the bare backend on prepared arrays: a ratio a block.
Video: the same photographs panned, 640 × 480 at 25 frames a second, once between two such loops.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.interleave import ratio, wall_clock
from benchmarks.common.record import command, finish
from runtime.backends.base import Backend
from runtime.bulk.images import explain_images
from runtime.bulk.video import explain_video
from runtime.explainer import Explainer
from runtime.media.decode import pillow
from runtime.media.geometry import Geometry
from runtime.media.sources import find_named_images

HEIGHT, WIDTH = 480, 640
RATE = 25
"""Frames a second of the video."""
BARE = 30
"""Runs of the bare backend before and after each block."""


def main() -> int:
    """Measure, print, write; returns 0."""
    p = command("throughput", __doc__)
    p.add_argument("package", type=Path)
    p.add_argument("--images", type=int, default=2000, help="(default: %(default)s)")
    p.add_argument("--block", type=int, default=100, help="images between two bare loops (%(default)s)")
    p.add_argument("--seconds", type=float, default=30, help="of video (default: %(default)s)")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder, Explainer(o.package) as explainer:
        work = Path(folder)
        facts = {"model": explainer.manifest.encoder.id, "backend": explainer.backend.why}
        rows = [
            {**facts, "variant": "pictures", **images(explainer, work, o.images, block=o.block)},
            {**facts, "variant": "video", **video(explainer, work, o.seconds)},
        ]
    return finish(o.json, rows)


def images(explainer: Explainer, work: Path, count: int, *, block: int) -> dict[str, Any]:
    """Images a second against the bare backend's, block by block, and resident memory after each."""
    folder = work / "pictures"
    folder.mkdir()
    for i, frame in zip(range(count), _frames(), strict=False):
        pillow().fromarray(frame).save(folder / f"{i:05}.jpg", quality=90)
    found = find_named_images([folder])
    bare, ours, memory = [], [], []
    before = _bare(explainer, BARE)
    for start in range(0, count, block):
        began = time.perf_counter()
        part = found[start : start + block]
        explain_images(explainer, part, work / "explained", quiet=True)
        ours.append((time.perf_counter() - began) / len(part))
        after = _bare(explainer, BARE)
        bare.append(statistics.mean((before, after)))
        memory.append(_resident())
        before = after
    rate = ratio(np.array(bare), np.array(ours))
    return {
        "n": count,
        "pictures_per_second": 1 / statistics.median(ours),
        "of_the_backend": rate.value,
        "of_the_backend_ci": [rate.low, rate.high],
        "resident_mb": memory,
        "growth_mb": memory[-1] - memory[min(2, len(memory) - 1)],
    }


def video(explainer: Explainer, work: Path, seconds: float) -> dict[str, Any]:
    """Frames a second against the bare backend's, decoding and encoding included."""
    import av

    count = int(seconds * RATE)
    path = work / "film.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for _, frame in zip(range(count), _frames(), strict=False):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    before, memory = _bare(explainer, BARE), _resident()
    began = time.perf_counter()
    written = explain_video(explainer, str(path), work / "film", quiet=True)
    each = (time.perf_counter() - began) / written
    rate = statistics.mean((before, _bare(explainer, BARE))) / each
    return {"n": written, "of_the_backend": rate, "growth_mb": _resident() - memory, "fps": 1 / each}


def _bare(explainer: Explainer, runs: int) -> float:
    """Median seconds of a run of the backend on a prepared image."""
    backend: Backend = explainer.backend
    geometry = Geometry.from_record(explainer.manifest.input)
    image = geometry.fit(next(_frames()))[0][None]
    return statistics.median(wall_clock(lambda: backend.run(image)) for _ in range(runs)) / 1e3


def _frames() -> Iterator[np.ndarray]:
    """Endless uint8 (480, 640, 3): a window that moves over photographs, mirrored at their borders."""
    from skimage import data

    photographs = [np.pad(p, ((0, HEIGHT), (0, WIDTH), (0, 0)), mode="symmetric") for p in (
        data.astronaut(), data.coffee(), data.chelsea()
    )]  # fmt: skip
    at = 0
    while True:
        photograph = photographs[at // 50 % len(photographs)]
        top, left = (3 * at) % (photograph.shape[0] - HEIGHT), (5 * at) % (photograph.shape[1] - WIDTH)
        yield np.ascontiguousarray(photograph[top : top + HEIGHT, left : left + WIDTH])
        at += 1


def _resident() -> float:
    """Resident memory of this process now, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(main())
