"""The fake GPU of `tests/runtime`, with kernels computed by numpy, for the checks of our CUDA code."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.bench import Bench, Effort
from benchmarks.gpu.kernels import expected
from runtime.backends import cuda
from runtime.package.records import InputRecord
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_gpu import Gpu

INPUT = InputRecord(
    name="image", height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", crop_pct=1,
    interpolation="bilinear",
)  # fmt: skip
FEW = Effort(side=8, opens=3, calls=20, device_calls=5, timed=20, threads=2, repeats=2)


class PretendedKernels:
    """The kernels, computed by numpy when the fake stream is waited for."""

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


def view(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    memory = (ctypes.c_uint8 * int(np.prod(shape))).from_address(pointer)
    return np.ndarray(shape, np.uint8, buffer=memory)


@contextmanager
def pretended_bench(monkeypatch: pytest.MonkeyPatch, **attributes: int) -> Iterator[Bench]:
    """A bench on a fake GPU; at the end, no rule of CUDA was broken and nothing is left open."""
    gpu = Gpu()
    driver = FakeDriver(gpu, **attributes)
    driver.cuMemGetInfo = lambda: (0, -sum(block.nbytes for block in gpu.blocks.values()), 0)
    monkeypatch.delenv(cuda.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    for name in ("tensorrt", "tensorrt_rtx", "torch"):  # torch needs the real driver
        monkeypatch.setitem(sys.modules, name, None)
    cuda._implementation.cache_clear()
    yield Bench(PretendedKernels(gpu), cuda.device(0), FEW)
    gc.collect()  # what an exception's frames still hold
    cuda._implementation.cache_clear()
    assert gpu.broken == []
    assert not gpu.stack()
    assert not gpu.live()
