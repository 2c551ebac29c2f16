"""Engines built here (encoder alone, fused, the authors' decoder), with and without CUDA graph; the package.

Every engine is built for one model, decoder and batch, half precision inside, by the TensorRT that is here
(TensorRT-RTX finishes it for this GPU when a context is made).  Its buffers, stream and graph are PyTorch's,
so that encoder and fused are timed in the same way, as in `benchmarks.gpu_latency`: `ratio_to_encoder` is
what the mask costs.  Then the package's own engine: what `run` and the Explainer add to the bare enqueue.

Run so far: the building.  On a GPU: see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_raw_engine import RawEngine, build
from benchmarks.gpu_report import Report, event_clock, parser, wall_clock
from benchmarks.interleave import Call
from benchmarks.onnx_sessions import encoder_graph, random_encoder
from benchmarks.onnx_sessions import fused as fuse
from export import graph
from export.fuse import Fused
from runtime.backends import Backend, choose, cuda
from runtime.backends.tensorrt import select
from runtime.backends.tensorrt_library import FLAVOURS, library
from runtime.errors import BackendUnavailable, NemuError
from runtime.explainer import Explainer
from runtime.package import Package

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def main(argv: list[str] | None = None) -> int:
    """Write the report; it is written after every measurement."""
    p = parser(__doc__)
    p.add_argument("--package", type=Path)
    options = p.parse_args(argv)
    report = Report(options.path, budget=options.budget, seconds=options.seconds)
    if options.package is None:
        report.skip("the package's engine", "there is no package")
    else:
        package = Package.open(options.package)
        backend_rows(report, package)
        overhead(report, package)
    built_rows(report, options.model, options.image_size, options.batch)
    return 0


def built_rows(report: Report, model: str, size: int, batches: list[int]) -> None:
    """Rows of engines that are built here, for the first flavour that is."""
    what = "engines of encoder, fused and authors' decoder"
    try:
        cuda.device(0)
        flavour = next(name for name in FLAVOURS if _is_here(name))
    except (BackendUnavailable, StopIteration) as error:
        why = error.came if isinstance(error, BackendUnavailable) else "no TensorRT of any flavour is here"
        report.skip(what, why)
        return
    stream = torch.cuda.Stream()
    clock = functools.partial(_on, stream)
    with tempfile.TemporaryDirectory() as folder:
        graphs = half_graphs(model, size, Path(folder))
        for batch in batches:
            if not report.has_time(f"{what}, batch {batch}"):
                continue
            row: dict[str, Any] = {"precision": "fp16", "model": model, "image_size": size, "batch": batch}
            try:
                shape = (batch, size, size, 3)
                plans = {name: build(flavour, path, shape) for name, path in graphs.items()}
                engines = {k: RawEngine(flavour, plan, shape, stream) for k, plan in plans.items()}
                name = f"{flavour} {library(flavour).__version__}"
                calls = {k: engine.enqueue for k, engine in engines.items()}
                report.compare(calls, clock, backend=f"{name}, enqueue", **row)
                graphed = {k: engine.graph() for k, engine in engines.items()}
                report.compare(graphed, clock, energy=True, backend=f"{name}, cuda graph", **row)
            except (NemuError, RuntimeError) as error:
                report.skip(f"{what}, batch {batch}", str(error)[-1000:])


def half_graphs(model: str, size: int, folder: Path) -> dict[str, Path]:
    """ONNX files in half precision, N free: `encoder` (cut out of `fused`), `fused`, `authors_decoder`."""
    encoder = random_encoder(model, size)
    files = {}
    for name, decoder in (("fused", "lateral"), ("authors_decoder", "unet")):
        module = Fused(fuse(encoder, decoder).nem, precision="fp16")
        proto, _ = graph.simplify(graph.export_onnx(module, height=size, width=size))
        protos = {name: proto} if name != "fused" else {"encoder": encoder_graph(proto), name: proto}
        for key, content in protos.items():
            files[key] = folder / f"{key}.onnx"
            graph.save(content, files[key])
    return files


def backend_rows(report: Report, package: Package) -> None:
    """Rows of the backends that run the package; inputs and outputs are copied, as an application does."""
    side = package.manifest.input
    ways = [(name, precision) for name in ("tensorrt", "onnxruntime") for precision in PRECISIONS]
    for name, precision in ways:
        try:
            backend = choose(package, name, precision=precision)
        except NemuError as error:
            report.skip(f"{name} {precision} on the package", error.came)
            continue
        with closing(backend):
            for batch in sorted({1, min(8, backend.max_batch)}):
                if not report.has_time(f"{name} {precision} on the package, batch {batch}"):
                    continue
                shape = (batch, side.height, side.width, 3)
                images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
                report.compare(
                    {"fused": functools.partial(backend.run, images)},
                    wall_clock,
                    backend=backend.name,
                    precision=backend.precision,
                    model=package.manifest.encoder.id.removeprefix("timm/"),
                    image_size=side.height,
                    batch=batch,
                    includes="copies to and from the device",
                )


def overhead(report: Report, package: Package) -> None:
    """Rows of one image through the package's engine, by the host's clock, each around the one before.

    `enqueue` and `cuda graph` on device memory, then ours: `run_device` of the Explainer, which copies
    nothing either; `run` of the backend, which copies in and out; the Explainer on a host image of the exact
    size.  What `run_device` adds to the graph is the cost of our Python.
    """
    side = package.manifest.input
    shape = (1, side.height, side.width, 3)
    try:
        engine = select(package, cuda.device(0).compute_capability)
        raw = RawEngine(engine.record.flavour, engine.read(), shape, torch.cuda.Stream())
        row: dict[str, Any] = {
            "backend": f"overhead, {engine.path.name}",
            "precision": engine.record.precision,
            "model": package.manifest.encoder.id.removeprefix("timm/"),
            "image_size": side.height,
            "batch": 1,
        }
        with (
            Explainer(package, backend="tensorrt") as explainer,
            closing(choose(package, "tensorrt")) as backend,
        ):
            report.compare(_layers(raw, backend, explainer, shape), wall_clock, **row)
    except NemuError as error:
        report.skip("what the Explainer adds to the enqueue", error.came)
    except RuntimeError as error:
        report.skip("what the Explainer adds to the enqueue", str(error)[-1000:])


def _layers(
    raw: RawEngine, backend: Backend, explainer: Explainer, shape: tuple[int, ...]
) -> dict[str, Call]:
    """From the bare enqueue to the Explainer, each until its outputs are there."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    wait = torch.cuda.synchronize
    calls: dict[str, Call] = {
        "enqueue": _both(raw.enqueue, wait),
        "cuda graph": _both(raw.graph(), wait),
        "backend.run": functools.partial(backend.run, images),
        "explainer": functools.partial(explainer, images[0]),
    }
    if hasattr(explainer, "run_device"):
        tensor = torch.from_numpy(images).cuda()
        calls["explainer.run_device"] = _both(functools.partial(explainer.run_device, tensor), wait)
    return calls


def _both(first: Call, then: Call) -> Call:
    def call() -> None:
        first()
        then()

    return call


def _on(stream: torch.cuda.Stream, call: Call) -> tuple[float, float]:
    """The clock of CUDA events, recorded on the stream that the work is on."""
    with torch.cuda.stream(stream):
        return event_clock(call)


def _is_here(flavour: str) -> bool:
    try:
        library(flavour)
    except BackendUnavailable:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
