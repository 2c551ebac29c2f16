"""Time the encoder with and without a mask in PyTorch: as a CUDA graph, eager, and by torch.compile.

`fused` has our decoder, `authors_decoder` has theirs, and `authors_way` runs the encoder twice, as their
code does.  They are timed in turns in one process, on random images,
after a warm-up, by `report.device_clock`.  On a CPU only eager is timed, by the host's clock.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common.interleave import Call, Clock, wall_clock
from benchmarks.common.onnx_sessions import fused as fuse
from benchmarks.common.onnx_sessions import random_encoder
from benchmarks.gpu.report import Report, device_clock, parser
from benchmarks.latency.peers import AuthorsWay
from export.graph.fuse import Fused

MODE = "reduce-overhead"  # mode of torch.compile: uses CUDA graphs and compiles within a minute
WAYS = ("graph", "eager", "compile")


def main(argv: list[str] | None = None) -> int:
    """Time every way and batch size; the report is written after every measurement."""
    p = parser(__doc__)
    p.add_argument("--model", default="resnet50", help="timm model, with random weights")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="ways to run, timed in this order")
    options = p.parse_args(argv)
    gpu = torch.cuda.is_available()
    report = Report(options.path, budget=options.budget, seconds=options.seconds, gpu=gpu)
    modules = variants(options.model, options.image_size, gpu=gpu)
    for way in options.ways:
        if not gpu and way != "eager":
            report.skip(f"torch {way}", "torch sees no GPU")
            continue
        for batch in options.batch:
            time_one(report, modules, way, batch=batch, model=options.model, size=options.image_size)
    return 0


class EncoderAlone(nn.Module):
    """The encoder of a fused module with its preprocessing: uint8 image → embedding float32."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → float32 (N, D)."""
        return self.fused.nem.encoder(self.fused.prepare(image))[0].float()


def variants(model: str, size: int, *, gpu: bool) -> dict[str, nn.Module]:
    """The compared modules: in half precision and channels last on a GPU, in float32 on a CPU."""
    encoder = random_encoder(model, size)
    precision = "fp16" if gpu else "fp32"
    ours, theirs = (Fused(fuse(encoder, decoder).nem, precision=precision) for decoder in ("lateral", "unet"))
    if gpu:
        torch.backends.cudnn.benchmark = True  # shapes are fixed: let cuDNN choose its best kernels
        ours, theirs = (m.cuda().to(memory_format=torch.channels_last) for m in (ours, theirs))
    return {
        "encoder": EncoderAlone(ours),
        "fused": ours,
        "authors_decoder": theirs,
        "authors_way": AuthorsWay(theirs),
    }


def time_one(
    report: Report, modules: dict[str, nn.Module], way: str, *, batch: int, model: str, size: int
) -> None:
    """Time the modules in one way at one batch size."""
    name = {"graph": "torch cuda graph", "eager": "torch eager", "compile": f"torch.compile {MODE}"}[way]
    if not report.has_time(f"{name}, batch {batch}"):
        return
    image = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    )
    clock: Clock = wall_clock
    gpu, finish = torch.cuda.is_available(), torch.cuda.synchronize
    if gpu:
        image = image.cuda()
        clock = functools.partial(
            device_clock, mark=_mark, between=lambda a, b: a.elapsed_time(b), finish=finish
        )
    # Compiling takes long, so only the two most important modules are compiled.
    compared = {k: m for k, m in modules.items() if way != "compile" or k in ("encoder", "fused")}
    make: Callable[[nn.Module, Tensor], Call] = {"graph": _graphed, "eager": _eager, "compile": _compiled}[
        way
    ]
    row = {"precision": "fp16" if gpu else "fp32", "model": model, "image_size": size, "batch": batch}
    try:
        with torch.inference_mode():
            calls = {name: make(module, image) for name, module in compared.items()}
            report.compare(
                calls, clock, finish=finish if gpu else None, energy=way == "graph", backend=name, **row
            )
    except RuntimeError as error:  # in capture, compilation or memory; the other ways are still timed
        report.skip(f"{name}, batch {batch}", str(error)[-500:])


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _eager(module: nn.Module, image: Tensor) -> Call:
    return lambda: module(image)


def _compiled(module: nn.Module, image: Tensor) -> Call:
    compiled = torch.compile(module, mode=MODE, dynamic=False)

    def call() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(image)

    call()
    return call


def _graphed(module: nn.Module, image: Tensor) -> Call:
    """A CUDA graph of the module; its replay over poisoned outputs is checked against a plain call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = _flat(module(image))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = _flat(module(image))
    for output in outputs:
        output.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    for output, plain in zip(outputs, expected, strict=True):
        if not torch.allclose(output, plain, rtol=1e-2, atol=1e-2 * plain.abs().max().item()):
            raise RuntimeError("the replayed CUDA graph does not give the outputs of a plain call")

    def call() -> list[Tensor]:
        graph.replay()
        return outputs  # keeps them alive

    return call


def _flat(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


if __name__ == "__main__":
    sys.exit(main())
