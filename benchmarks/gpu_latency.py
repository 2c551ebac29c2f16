"""Encoder alone against encoder with mask, in PyTorch (eager, CUDA graph, torch.compile) and as an engine.

Variants are those of `benchmarks.latency`: `fused` has our decoder, `authors_decoder` theirs, and
`authors_way` runs the encoder twice, as their code does.  They are timed in turns (A B A B) in one process,
on random images, after a warm-up.  On a GPU the clock is CUDA events around one call, with the device idle
before it; `wall_median_ms` is the same by the host's clock.  On a CPU both are the host's clock.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.interleave import FEWEST_PAIRS, ratio
from benchmarks.onnx_sessions import fused as fuse
from benchmarks.onnx_sessions import random_encoder
from benchmarks.peers import AuthorsWay
from benchmarks.record import device_name, meta, write
from export.fuse import Fused
from runtime.backends import choose
from runtime.errors import NemuError
from runtime.package import Package

Call = Callable[[], Any]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MODE = "reduce-overhead"  # of torch.compile: with CUDA graphs, and compiled within a minute


def main(argv: list[str] | None = None) -> int:
    """Write the report; it is written after every measurement."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("path", type=Path, help="JSON file to write")
    p.add_argument("--package", type=Path)
    p.add_argument("--model", default="resnet50")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--seconds", type=float)
    options = p.parse_args(argv)
    gpu = torch.cuda.is_available()
    seconds = options.seconds or (5.0 if gpu else 2.0)
    report = Report(options.path, seconds=seconds, most=1000 if gpu else 20, warm_up=20 if gpu else 1)
    torch_rows(report, options.model, options.image_size, options.batch, gpu=gpu)
    if options.package is None:
        report.skip("the package's engine", "there is no package")
    else:
        engine_rows(report, Package.open(options.package))
    return 0


class Report:
    """Rows and what was skipped, written as they come.

    Args:
        seconds, most: a measurement ends after either, but not before five turns.
        warm_up: untimed calls before it.
    """

    def __init__(self, path: Path, *, seconds: float, most: int, warm_up: int) -> None:
        self._path, self._seconds, self._most, self._warm_up = path, seconds, most, warm_up
        self._device = torch.cuda.get_device_name() if torch.cuda.is_available() else device_name()
        self._content: dict[str, Any] = {"meta": meta(), "rows": [], "skipped": []}
        write(path, self._content)

    def skip(self, what: str, why: str) -> None:
        """Note what was not measured."""
        self._content["skipped"].append({"what": what, "why": why})
        write(self._path, self._content)

    def compare(
        self, variants: dict[str, Call], clock: Callable[[Call], tuple[float, float]], **row: Any
    ) -> None:
        """Time the variants in turns, and add a row for each; `ratio_to_encoder` if `encoder` is one."""
        for call in variants.values():
            for _ in range(self._warm_up):
                call()
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        until = time.monotonic() + self._seconds
        for turn in range(self._most):
            if turn >= 5 and time.monotonic() > until:
                break
            for name, call in variants.items():
                samples[name].append(clock(call))
        encoder = np.array(samples["encoder"])[:, 0] if "encoder" in samples else None
        for name, pairs in samples.items():
            times, walls = np.array(pairs).T
            median, p95, p99 = (float(np.percentile(times, q)) for q in (50, 95, 99))
            against = None if encoder is None else ratio(times, encoder)
            self._content["rows"].append(
                {
                    **row,
                    "variant": name,
                    "device": self._device,
                    "median_ms": median,
                    "p95_ms": p95,
                    "p99_ms": p99,
                    "ratio_to_encoder": against and against.value,
                    "ratio_ci": [against.low, against.high]
                    if against and len(times) >= FEWEST_PAIRS
                    else None,
                    "wall_median_ms": float(np.median(walls)),
                    "n": len(times),
                }
            )
        write(self._path, self._content)


class EncoderAlone(nn.Module):
    """The encoder of a fused module, with the same beginning: uint8 image → embedding float32."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → float32 (N, D)."""
        return self.fused.nem.encoder(self.fused.prepare(image))[0].float()


def torch_rows(report: Report, model: str, size: int, batches: list[int], *, gpu: bool) -> None:
    """Rows of the PyTorch backends; random weights, which take as long as trained ones."""
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
    clock = _event_clock if gpu else _wall_clock
    ways = {"torch eager": _eager, "torch cuda graph": _graphed, f"torch.compile {MODE}": _compiled}
    if not gpu:
        for way in list(ways)[1:]:
            report.skip(way, "there is no GPU")
        report.skip("fp16", "there is no GPU; float32 is timed instead")
    for batch in batches:
        shape = (batch, size, size, 3)
        image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        image = image.cuda() if gpu else image
        for way, make in ways.items() if gpu else [("torch eager", _eager)]:
            row = {"backend": way, "precision": precision, "model": model, "image_size": size, "batch": batch}
            try:
                with torch.inference_mode():
                    calls = {name: make(module, image) for name, module in modules.items()}
                    report.compare(calls, clock, **row)
            except RuntimeError as error:  # of capture, compilation or memory; the other ways go on
                report.skip(f"{way}, batch {batch}", str(error)[-500:])


def engine_rows(report: Report, package: Package) -> None:
    """Rows of the backends that run the package; inputs and outputs are copied, as an application does."""
    report.skip(
        "encoder alone as an engine", "a package holds the fused engine only, so its rows have no ratio"
    )
    side = package.manifest.input
    ways = [(name, precision) for name in ("tensorrt", "onnxruntime") for precision in PRECISIONS]
    for name, precision in ways:
        try:
            backend = choose(package, name, precision=precision)
        except NemuError as error:
            report.skip(f"{name} {precision} on the package", error.came)
            continue
        for batch in sorted({1, min(8, backend.max_batch)}):
            shape = (batch, side.height, side.width, 3)
            images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            report.compare(
                {"fused": functools.partial(backend.run, images)},
                _wall_clock,
                backend=backend.name,
                precision=backend.precision,
                model=package.manifest.encoder.id.removeprefix("timm/"),
                image_size=side.height,
                batch=batch,
                includes="copies to and from the device",
            )
        backend.close()


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


def _event_clock(call: Call) -> tuple[float, float]:
    """Milliseconds by CUDA events, and by the host's clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    started = time.perf_counter()
    begin.record()
    call()
    end.record()
    end.synchronize()
    wall = 1e3 * (time.perf_counter() - started)
    return begin.elapsed_time(end), wall


def _wall_clock(call: Call) -> tuple[float, float]:
    started = time.perf_counter()
    call()
    wall = 1e3 * (time.perf_counter() - started)
    return wall, wall


if __name__ == "__main__":
    sys.exit(main())
