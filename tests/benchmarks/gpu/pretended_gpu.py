"""The fake GPU of `tests/runtime`, with kernels computed by numpy, for the checks of gpu_cuda."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.bench import Bench, Effort
from benchmarks.gpu.kernels import expected
from runtime.backends import cuda
from runtime.package.records import InputRecord

RUNTIME = Path(__file__).parents[2] / "runtime"
INPUT = InputRecord(
    name="image", height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", crop_pct=1,
    interpolation="bilinear",
)  # fmt: skip
FEW = Effort(side=8, opens=3, calls=20, device_calls=5, timed=20, threads=2, repeats=2)


class PretendedKernels:
    """The kernels, computed by numpy when the fake stream is waited for."""

    how = "pretended"

    def __init__(self, gpu: Any) -> None:
        self.gpu = gpu

    def infer(self, stream, image, embedding, mask, shape, spin):
        def compute() -> None:
            for pointer, value in zip((embedding, mask), expected(view(image, shape)), strict=True):
                ctypes.memmove(pointer, np.ascontiguousarray(value).ctypes.data, value.nbytes)

        self.gpu.enqueue(stream, compute, image, embedding, mask)

    def wait(self, stream, spin):
        self.gpu.enqueue(stream, lambda: None)

    def recording(self, stream):
        return self.gpu.stream(stream).recording is not None

    def forbidden(self, stream): ...

    def memory(self):
        return sum(block.nbytes for block in self.gpu.blocks.values())


def view(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    memory = (ctypes.c_uint8 * int(np.prod(shape))).from_address(pointer)
    return np.ndarray(shape, np.uint8, buffer=memory)


@contextmanager
def pretended_bench(monkeypatch: pytest.MonkeyPatch, **attributes: int) -> Iterator[Bench]:
    """A bench on a fake GPU; at the end, no rule of CUDA was broken and nothing is left open."""
    fake_cuda, fake_gpu = (
        importlib.import_module("tests.runtime.fake_cuda"),
        importlib.import_module("tests.runtime.fake_gpu"),
    )
    gpu = fake_gpu.Gpu()
    monkeypatch.delenv(cuda.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_cuda.FakeDriver(gpu, **attributes))
    for name in ("tensorrt", "tensorrt_rtx", "torch"):  # torch needs the real driver
        monkeypatch.setitem(sys.modules, name, None)
    cuda._implementation.cache_clear()
    yield Bench(PretendedKernels(gpu), cuda.device(0), FEW)
    gc.collect()  # what an exception's frames still hold
    cuda._implementation.cache_clear()
    assert gpu.broken == []
    assert not gpu.stack()
    assert not gpu.live()
