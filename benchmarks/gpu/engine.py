"""Time the package's engines as CUDA graphs, with and without the mask, and what our runtime adds to them.

`encoder` is the engine that `nemu build --embedding-only` makes of the same graph and weights; `toward`, if
the package takes targets, is the engine with two inputs.  They are timed in turns on one stream, as PyTorch's
modules are in `gpu.latency`; `ratio_to_encoder` is the cost of the mask.  torch is not imported, so this runs
on a Jetson.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.interleave import Call, Clock, wall_clock
from benchmarks.gpu.bench import DeviceImages
from benchmarks.gpu.kernels import driver_call
from benchmarks.gpu.package import form_of
from benchmarks.gpu.report import Report, device_clock, parser
from runtime.backends import cuda
from runtime.backends.cuda.memory import Stream
from runtime.backends.tensorrt.cuda_graph import GraphLane
from runtime.backends.tensorrt.engine import INPUT, LoadedEngine, RtxCache, Shapes
from runtime.backends.tensorrt.library import library
from runtime.backends.tensorrt.selection import misfit, open_engine, refused
from runtime.errors import BackendUnavailable, EngineMismatch, NemuError
from runtime.explainer import Explainer
from runtime.package.folder import Engine, Package
from runtime.package.manifest import TOWARD


def main(argv: list[str] | None = None) -> int:
    """Time the engines; the report is written after every measurement."""
    p = parser(__doc__)
    p.add_argument("--package", type=Path)
    p.add_argument("--flavour", default="rtx", help="only engines of this flavour of TensorRT (%(default)s)")
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
    """The engines of a flavour that fit this GPU, by form (`gpu.package.FORMS`).

    Raises:
        BackendUnavailable: the flavour's library is not installed.
        EngineMismatch: TensorRT-RTX says that a fitting engine does not run here.
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
    """Time the bare engines on one image and on the largest batch, as CUDA graphs where possible."""
    if not engines:
        return
    implementation = cuda.implementation()
    most = min(engine.record.batch[2] for engine in engines.values())
    for batch in sorted({1, most}):
        with ExitStack() as stack:
            stream = stack.enter_context(Stream(implementation))
            shape = _shape(package, batch)
            lanes = {
                name: stack.enter_context(lane(engine, shape, stream)) for name, engine in engines.items()
            }
            finish = functools.partial(implementation.synchronize, stream.handle)
            if implementation.no_graphs:  # then there are no events either
                clock: Clock = functools.partial(_until_done, finish=finish)
            else:
                mark, between = events(stream)
                clock = functools.partial(device_clock, mark=mark, between=between, finish=finish)
            if not report.has_time(f"engines, batch {batch}"):
                continue
            calls, way = _launches(report, lanes, batch)
            row = _row(package, next(iter(engines.values())), batch)
            row["backend"] += f", {way}"
            report.compare(calls, clock, finish=finish, energy=True, **row)


@contextmanager
def lane(engine: Engine, shape: tuple[int, ...], stream: Stream) -> Iterator[GraphLane]:
    """A lane of the runtime without copies: the engine, memory on the device, a stream, and a CUDA graph.

    The device is current.  Images, and targets if it takes any, are made up.

    Args:
        shape: of the images, within the engine's profile.
        stream: any but the default stream.

    Raises:
        BackendError: the engine does not load, or its first run fails.
    """
    record, implementation = engine.record, cuda.implementation()
    cache = RtxCache(record, cuda.device(0))
    with closing(LoadedEngine(library(record.flavour), engine, engine.read(), cache)) as loaded:
        shapes: Shapes = {INPUT: shape}
        if TOWARD in loaded.inputs:
            shapes[TOWARD] = (shape[0], loaded.dimension)
        with closing(GraphLane(implementation, loaded, shapes, mapped=False, stream=stream)) as made:
            yield made


def _launches(report: Report, lanes: dict[str, GraphLane], batch: int) -> tuple[dict[str, Call], str]:
    """A call for each engine, and its kind: CUDA graphs for all engines, or for none."""
    whys = [one.no_graph for one in lanes.values() if one.no_graph]
    if whys:
        report.skip("engines as CUDA graphs", whys[0])
    calls: dict[str, Call] = {
        name: functools.partial(one.launch, batch, plain=bool(whys)) for name, one in lanes.items()
    }
    return calls, "enqueue" if whys else "cuda graph"


def events(stream: Stream) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """`mark` and `between` for `gpu.report.device_clock`, by CUDA events on a stream."""

    def mark() -> Any:
        event = driver_call("cuEventCreate", 0)
        driver_call("cuEventRecord", event, stream.handle)
        return event

    def between(begin: Any, end: Any) -> float:
        milliseconds = driver_call("cuEventElapsedTime", begin, end)
        driver_call("cuEventDestroy", begin)
        driver_call("cuEventDestroy", end)
        return float(milliseconds)

    return mark, between


def overhead(report: Report, package: Package, engines: dict[str, Engine]) -> None:
    """Time one image through the package's engine, from idle to idle, in ways that each add something.

    `bare` is a CUDA graph on device memory.  `explainer.run_device` adds our Python code and three small
    copies within the device; `backend.run` copies in and out; `explainer` takes a host image of the exact
    size; `backend.run_toward` runs the engine for targets, if there is one.
    """
    engine = engines.get("fused")
    if engine is None or not report.has_time("what the Explainer adds"):
        return
    implementation = cuda.implementation()
    images = np.random.default_rng(0).integers(0, 256, _shape(package, 1), dtype=np.uint8)
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(implementation))
        array = DeviceImages(implementation, images, stream)
        stack.callback(array.close)
        bare = stack.enter_context(lane(engine, images.shape, stream))
        backend = stack.enter_context(closing(open_engine(package, engine, unlisted=True)))
        explainer = stack.enter_context(Explainer(package, backend=backend))
        for on_device in (False, True):
            explainer.warm_up(on_device=on_device)
        launch = _launches(report, {"bare": bare}, 1)[0]["bare"]
        finish: Call = functools.partial(implementation.synchronize, stream.handle)
        calls: dict[str, Call] = {
            "bare": lambda: [launch(), finish()],
            "explainer.run_device": lambda: explainer.run_device(array).synchronize(),
            "backend.run": functools.partial(backend.run, images),
            "explainer": functools.partial(explainer, images[0]),
        }
        if "toward" in engines:
            asks = stack.enter_context(closing(open_engine(package, engines["toward"], unlisted=True)))
            toward = np.ones((1, package.manifest.encoder.dimension), np.float32)
            calls["backend.run_toward"] = functools.partial(asks.run_toward, images, toward)
        row = {**_row(package, engine, 1), "backend": f"overhead, {engine.path.name}"}
        report.compare(calls, wall_clock, **row)


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
