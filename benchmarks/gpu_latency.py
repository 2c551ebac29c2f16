"""Encoder alone against encoder with mask in PyTorch: eager, as a CUDA graph, by torch.compile.

Variants are those of `benchmarks.latency`: `fused` has our decoder, `authors_decoder` theirs, and
`authors_way` runs the encoder twice, as their code does.  They are timed in turns (A B A B) in one process,
on random images, after a warm-up.  On a GPU the clock is CUDA events around one call, with the device idle
before it; `wall_median_ms` is the same by the host's clock.  On a CPU both are the host's clock.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_report import Report, event_clock, parser, wall_clock
from benchmarks.interleave import Call
from benchmarks.onnx_sessions import fused as fuse
from benchmarks.onnx_sessions import random_encoder
from benchmarks.peers import AuthorsWay
from export.fuse import Fused

MODE = "reduce-overhead"  # of torch.compile: with CUDA graphs, and compiled within a minute


def main(argv: list[str] | None = None) -> int:
    """Write the report; it is written after every measurement."""
    p = parser(__doc__)
    options = p.parse_args(argv)
    report = Report(options.path, budget=options.budget, seconds=options.seconds)
    torch_rows(report, options.model, options.image_size, options.batch)
    return 0


class EncoderAlone(nn.Module):
    """The encoder of a fused module, with the same beginning: uint8 image → embedding float32."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → float32 (N, D)."""
        return self.fused.nem.encoder(self.fused.prepare(image))[0].float()


def torch_rows(report: Report, model: str, size: int, batches: list[int]) -> None:
    """Rows of PyTorch, the slow compilation last; random weights, which take as long as trained ones."""
    gpu = report.gpu
    precision = "fp16" if gpu else "fp32"
    encoder = random_encoder(model, size)
    ours, theirs = (Fused(fuse(encoder, decoder).nem, precision=precision) for decoder in ("lateral", "unet"))
    if gpu:
        torch.backends.cudnn.benchmark = True  # shapes are fixed: let cuDNN choose its best kernels
        ours, theirs = (m.cuda().to(memory_format=torch.channels_last) for m in (ours, theirs))
    modules: dict[str, nn.Module] = {
        "encoder": EncoderAlone(ours),
        "fused": ours,
        "authors_decoder": theirs,
        "authors_way": AuthorsWay(theirs),
    }
    ways = {"torch eager": _eager, "torch cuda graph": _graphed, f"torch.compile {MODE}": _compiled}
    if not gpu:
        for way in list(ways)[1:]:
            report.skip(way, "there is no GPU")
        report.skip("fp16", "there is no GPU; float32 is timed instead")
        report.skip("energy per frame", "there is no GPU")
    for way, make in ways.items() if gpu else [("torch eager", _eager)]:
        for batch in batches:
            if not report.has_time(f"{way}, batch {batch}"):
                continue
            shape = (batch, size, size, 3)
            image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
            image = image.cuda() if gpu else image
            row = {"backend": way, "precision": precision, "model": model, "image_size": size, "batch": batch}
            try:
                with torch.inference_mode():
                    calls = {name: make(module, image) for name, module in modules.items()}
                    clock = event_clock if gpu else wall_clock
                    report.compare(calls, clock, energy=way == "torch cuda graph", **row)
            except RuntimeError as error:  # of capture, compilation or memory; the other ways go on
                report.skip(f"{way}, batch {batch}", str(error)[-500:])


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
    """A CUDA graph of the module, whose replay was checked against a plain call with poisoned outputs."""
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
