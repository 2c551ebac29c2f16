"""Tools for the checks of `gpu.cuda`: backends over the stand-in engine, images on the GPU, memory in use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.common.nvml import NoNvml, Nvml
from benchmarks.gpu.kernels import Kernels, expected
from benchmarks.gpu.stand_in import VERSION, stand_in
from runtime.backends import cuda
from runtime.backends.cuda.memory import DeviceBuffer, PinnedArray, Stream
from runtime.backends.tensorrt.selection import TensorRTBackend
from runtime.package.folder import Engine
from runtime.package.manifest import EngineRecord
from runtime.package.records import InputRecord, ParityRecord

Outputs = Sequence[np.ndarray]
"""embedding, mask."""


class Wrong(AssertionError):
    """A check found an error."""


class NotHere(Exception):
    """A check cannot be made on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Sizes and numbers of repetitions of the checks."""

    side: int = 224
    """Side of the square images in pixels."""
    most: int = 4
    """Largest batch of the engine."""
    opens: int = 1000
    calls: int = 10_000
    device_calls: int = 1000
    timed: int = 2000
    threads: int = 4
    repeats: int = 10
    spin: int = 3_000_000
    """Clock cycles of a slow kernel: about 2 ms."""


class Bench:
    """A GPU, the kernels compiled for it, and the effort of the checks."""

    def __init__(self, kernels: Kernels, gpu: cuda.DeviceInfo, effort: Effort) -> None:
        self.kernels, self.gpu, self.effort = kernels, gpu, effort
        self.cuda = cuda.implementation()
        self._images = np.random.default_rng(0).integers(
            0, 256, (16 + effort.most, effort.side, effort.side, 3), dtype=np.uint8
        )
        self._expected = expected(self._images)
        self._stand_ins: dict[tuple[int, str, bool], ModuleType] = {}  # the runtime holds a logger for each

    def current(self) -> Any:
        """A context manager in which the device is current."""
        return self.cuda.current(self.gpu.index)

    def images(self, n: int, seed: int = 0) -> tuple[np.ndarray, Outputs]:
        """uint8 (n, side, side, 3), and the outputs that they must give."""
        part = slice(seed % 16, seed % 16 + n)
        return self._images[part], [output[part] for output in self._expected]

    @contextmanager
    def backend(self, *, spin: int = 0, fault: str = "", rtx: bool = False) -> Iterator[TensorRTBackend]:
        """The runtime's own backend over the stand-in engine; arguments as of `gpu.stand_in.stand_in`."""
        key, side, most = (spin, fault, rtx), self.effort.side, self.effort.most
        if key not in self._stand_ins:
            self._stand_ins[key] = stand_in(self.kernels, most=most, spin=spin, fault=fault, rtx=rtx)
        sys.modules["tensorrt_rtx" if rtx else "tensorrt"] = self._stand_ins[key]
        record = InputRecord(
            name="image", height=side, width=side, mean=(0, 0, 0), std=(1, 1, 1), resize="squash",
            crop_pct=1, interpolation="bilinear",
        )  # fmt: skip
        flavour = "rtx" if rtx else "tensorrt"
        engine = Engine(Path("stand-in.engine"), _record(self.gpu, most, flavour=flavour))
        backend = TensorRTBackend(engine, plan=b"", input=record, gpu=self.gpu)
        try:
            yield backend
        finally:
            backend.close()

    def run_exactly(self, backend: TensorRTBackend, n: int, seed: int) -> None:
        """Make one run over poisoned outputs.

        Raises:
            Wrong: the outputs differ from numpy's.
        """
        images, outputs = self.images(n, seed)
        backend.poison()
        same(backend.run(images), outputs, f"run of {n}")

    def on_device(self, images: np.ndarray, stack: ExitStack, stream: Stream | None = None) -> DeviceImages:
        """Images on the GPU until the end of `stack`, written on `stream` or on a new stream."""
        array = DeviceImages(self.cuda, images, stream or stack.enter_context(Stream(self.cuda)))
        stack.callback(array.close)
        return array

    def download(self, array: Any, stream: int) -> np.ndarray:
        """Copy a DeviceArray to the host on `stream`, as float32; the device must be current."""
        with PinnedArray(self.cuda, array.shape, np.float32) as host:
            self.cuda.copy_out(host.handle, array.pointer, host.nbytes, stream)
            self.cuda.synchronize(stream)
            return host.array.copy()

    def used(self) -> dict[str, int]:
        """Bytes that this process uses on the host and on the device; without NVML, that all use there."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        host = {"host": pages * os.sysconf("SC_PAGE_SIZE")}
        try:
            return {**host, "device, this process": Nvml(self.gpu.index).process_bytes()}
        except NoNvml:
            with self.current():
                return {**host, "device, all processes": self.kernels.memory()}


class DeviceImages:
    """Images on the GPU, uint8 (N, H, W, 3), with the CUDA array interface.

    They are made and closed while the device is current.

    Args:
        stream: on which they are written; they are ready there.
    """

    def __init__(self, library: cuda.Cuda, images: np.ndarray, stream: Stream) -> None:
        self._cuda, self._stream, self._shape = library, stream, images.shape
        self._host = PinnedArray(library, images.shape, np.uint8)
        self._host.array[:] = images
        self._buffer = DeviceBuffer(library, images.nbytes)
        self.write()
        library.synchronize(stream.handle)

    @property
    def pointer(self) -> int:
        """Their address."""
        return self._buffer.handle

    def write(self) -> None:
        """Enqueue the copy to the GPU."""
        self._cuda.copy_in(self.pointer, self._host.handle, self._host.nbytes, self._stream.handle)

    def blacken(self) -> None:
        """Enqueue setting them to zero."""
        self._cuda.fill(self.pointer, 0, self._buffer.nbytes, self._stream.handle)

    def close(self) -> None:
        """Give the memory back."""
        self._buffer.close()
        self._host.close()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.pointer, False)
        facts = {"shape": self._shape, "typestr": "|u1", "data": data, "strides": None}
        return {**facts, "version": 3, "stream": self._stream.handle}


def same(outputs: Outputs, right: Outputs, what: str) -> None:
    """Raise `Wrong` unless both are equal to the last bit."""
    for name, one, other in zip(("embedding", "mask"), outputs, right, strict=True):
        if not np.array_equal(one, other):
            worst = float(np.abs(one - other).max()) if one.shape == other.shape else "another shape"
            raise Wrong(f"{what}: {name} is off by {worst}, {np.isnan(one).mean():.0%} of it NaN")


def _record(gpu: cuda.DeviceInfo, most: int, *, flavour: str = "tensorrt") -> EngineRecord:
    return EngineRecord(
        flavour=flavour,
        version=VERSION,
        compute_capability=gpu.compute_capability,
        precision="fp32",
        tensor_types={},
        batch=(1, 1, most),
        onnx="none",
        onnx_sha256="0" * 64,
        package="0" * 64,
        flags={"require_user_allocation": False},
        parity=ParityRecord(not_run="unavailable"),
        build_seconds=0.0,
        sha256="0" * 64,
    )
