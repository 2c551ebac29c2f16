"""The package's own engines, with and without its mask, as CUDA graphs; and what our runtime adds to that.

The encoder alone is the engine of `python -m export.build_engine --embedding-only`, of the same graph and
weights; `toward`, where the package takes targets, is the one with two inputs.  They are timed in turns on a
stream of their own, as PyTorch's modules are in `gpu_latency`: `ratio_to_encoder` is what the mask costs.  No
torch: this runs on a Jetson.

Run so far over stand-ins.  On a GPU: see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

import functools
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_bench import DeviceImages
from benchmarks.gpu_package import form_of
from benchmarks.gpu_raw_engine import RawEngine, events
from benchmarks.gpu_report import Clock, Report, device_clock, parser
from benchmarks.interleave import Call, wall_clock
from runtime.backends import cuda
from runtime.backends.cuda_memory import Stream
from runtime.backends.tensorrt import misfit, open_engine, refused
from runtime.errors import BackendError, BackendUnavailable, EngineMismatch, NemuError
from runtime.explainer import Explainer
from runtime.package import Engine, Package


def main(argv: list[str] | None = None) -> int:
    """Write the report; it is written after every measurement."""
    p = parser(__doc__)
    p.add_argument("--package", type=Path)
    p.add_argument("--flavour", default="rtx", help="engines of this TensorRT alone (%(default)s)")
    options = p.parse_args(argv)
    report = Report(options.path, budget=options.budget, seconds=options.seconds, gpu=True)
    what = f"engines of flavour {options.flavour}"
    if options.package is None:
        report.skip(what, "there is no package")
        return 0
    package = Package.open(options.package)
    try:
        gpu = cuda.device(0)
        engines = fitting(package, options.flavour, gpu)
    except (BackendUnavailable, EngineMismatch) as error:
        report.skip(what, error.came)
        return 0
    for absent in {"encoder", "fused"} - set(engines):
        report.skip(f"{what}: {absent}", "the package holds none that fits")
    with cuda.implementation().current(gpu.index):
        for measure in (rows, overhead):
            try:
                measure(report, package, engines)
            except NemuError as error:
                report.skip(f"{what}: {measure.__name__}", f"{type(error).__name__}: {error}"[-1000:])
    return 0


def fitting(package: Package, flavour: str, gpu: cuda.DeviceInfo) -> dict[str, Engine]:
    """Those of `gpu_package.FORMS` that the package has an engine of, of the flavour, that fits this GPU.

    Raises:
        BackendUnavailable: the flavour's library is not here.
        EngineMismatch: TensorRT-RTX says that an engine which fits does not run.
    """
    found: dict[str, Engine] = {}
    for engine in package.engines():
        record = engine.record
        if record.flavour == flavour and not misfit(record, gpu.compute_capability):
            if flavour == "rtx" and (why := refused(engine.read(), gpu)):
                raise EngineMismatch(why, expected="a GPU that it supports", cure="use engines of tensorrt")
            found.setdefault(form_of(record), engine)
    return found


def rows(report: Report, package: Package, engines: dict[str, Engine]) -> None:
    """Rows of the bare engines, for one image and for the most; as CUDA graphs where there are any."""
    if not engines:
        return
    most = min(engine.record.batch[2] for engine in engines.values())
    for batch in sorted({1, most}):
        with ExitStack() as stack:
            stream = stack.enter_context(Stream(cuda.implementation()))
            shape = _shape(package, batch)
            raw = {
                name: stack.enter_context(closing(RawEngine(engine, shape, stream)))
                for name, engine in engines.items()
            }
            finish = next(iter(raw.values())).finish
            if cuda.implementation().no_graphs:  # nor events, then
                clock: Clock = functools.partial(_until_done, finish=finish)
            else:
                mark, between = events(stream)
                clock = functools.partial(device_clock, mark=mark, between=between, finish=finish)
            if not report.has_time(f"engines, batch {batch}"):
                continue
            calls, way = _launches(report, raw)
            row = _row(package, next(iter(engines.values())), batch)
            row["backend"] += f", {way}"
            report.compare(calls, clock, finish=finish, energy=True, **row)


def _launches(report: Report, raw: dict[str, RawEngine]) -> tuple[dict[str, Call], str]:
    """A call for each engine, and what it is: all by CUDA graphs, or none."""
    try:
        return {name: engine.graph() for name, engine in raw.items()}, "cuda graph"
    except BackendError as error:
        report.skip("engines as CUDA graphs", error.came)
        return {name: engine.plain() for name, engine in raw.items()}, "enqueue"


def overhead(report: Report, package: Package, engines: dict[str, Engine]) -> None:
    """Rows of one image through the package's engine, from idle to idle, each around the one before.

    `bare` is a CUDA graph on device memory; then ours: `run_device` of the Explainer, which copies within the
    device; `run` of the backend, which copies in and out; the Explainer on a host image of the exact size;
    and `run_toward`, if there is an engine for targets.
    What `run_device` adds to the graph is the cost of our Python and of three small copies.
    """
    engine = engines.get("fused")
    if engine is None or not report.has_time("what the Explainer adds"):
        return
    images = np.random.default_rng(0).integers(0, 256, _shape(package, 1), dtype=np.uint8)
    row = _row(package, engine, 1)
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(cuda.implementation()))
        array = DeviceImages(cuda.implementation(), images, stream)
        stack.callback(array.close)
        raw = stack.enter_context(closing(RawEngine(engine, images.shape, stream)))
        backend = stack.enter_context(closing(open_engine(package, engine, unlisted=True)))
        explainer = stack.enter_context(Explainer(package, backend=backend))
        for on_device in (False, True):
            explainer.warm_up(on_device=on_device)
        finish: Call = raw.finish
        replay = _launches(report, {"bare": raw})[0]["bare"]
        calls: dict[str, Call] = {
            "bare": lambda: [replay(), finish()],
            "explainer.run_device": lambda: explainer.run_device(array).synchronize(),
            "backend.run": functools.partial(backend.run, images),
            "explainer": functools.partial(explainer, images[0]),
        }
        if "toward" in engines:
            asks = stack.enter_context(closing(open_engine(package, engines["toward"], unlisted=True)))
            toward = np.ones((1, package.manifest.encoder.dimension), np.float32)
            calls["backend.run_toward"] = functools.partial(asks.run_toward, images, toward)
        report.compare(calls, wall_clock, **{**row, "backend": f"overhead, {engine.path.name}"})


def _until_done(call: Call, *, finish: Call) -> float:
    return wall_clock(lambda: (call(), finish()))


def _shape(package: Package, batch: int) -> tuple[int, ...]:
    side = package.manifest.input
    return (batch, side.height, side.width, 3)


def _row(package: Package, engine: Engine, batch: int) -> dict[str, Any]:
    return {
        "backend": f"{engine.record.flavour} {engine.record.version}",
        "precision": engine.record.precision,
        "model": package.manifest.encoder.id.removeprefix("timm/"),
        "image_size": package.manifest.input.height,
        "batch": batch,
    }


if __name__ == "__main__":
    sys.exit(main())
