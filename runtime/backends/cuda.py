"""CUDA, as little of it as the TensorRT backend needs: driver, memory, streams, copies.

On NVIDIA's cuda-bindings (the runtime API, hence the primary context that the host application's
libraries share).  Every call's return code is checked.  Everything that is opened has `close()`, is a
context manager, and may be closed twice.

Run so far: without a driver (probe and errors) and over a stand-in for the bindings in the tests.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from runtime.errors import BackendError, BackendUnavailable

_DRIVER_CURE = (
    "install an NVIDIA driver: r580 or newer for CUDA 13 (cuda-bindings 13), r535 or newer for CUDA 12; "
    "or use the CPU: backend='onnxruntime'"
)


@dataclass(frozen=True, kw_only=True)
class DriverInfo:
    """The driver, and how much there is to drive."""

    cuda: str
    """Newest CUDA version that the driver supports, e.g. `13.0`."""
    devices: int


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One GPU."""

    index: int
    name: str
    compute_capability: str
    """Such as `8.7`."""
    memory_bytes: int
    integrated: bool
    """It shares memory with the CPU, as on a Jetson."""


def driver() -> DriverInfo:
    """Probe the driver; safe on a machine that has none.  Call it before any TensorRT runtime exists.

    Raises:
        BackendUnavailable: no cuda-bindings, no driver, a driver too old for them, or no device.
    """
    cudart = _cudart()
    version = _text(_call("cudaDriverGetVersion"))
    error, count = cudart.cudaGetDeviceCount()
    if int(error) or not count:
        came = "there is no NVIDIA driver" if version == "0.0" else f"the NVIDIA driver is for CUDA {version}"
        raise BackendUnavailable(
            f"{came} ({_name(error) if int(error) else 'no device'})",
            expected=f"a driver and a device for CUDA {_text(_call('cudaRuntimeGetVersion'))}",
            cure=_DRIVER_CURE,
        )
    return DriverInfo(cuda=version, devices=int(count))


def device(index: int = 0) -> DeviceInfo:
    """Name and properties of a device.

    Raises:
        BackendUnavailable: as `driver`, or no device has that index.
    """
    count = driver().devices
    if not 0 <= index < count:
        raise BackendUnavailable(
            f"device {index}",
            expected=f"0 to {count - 1}: {count} device(s) are visible",
            cure="choose another device, or check CUDA_VISIBLE_DEVICES",
        )
    properties = _call("cudaGetDeviceProperties", index)
    name = properties.name
    return DeviceInfo(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
        integrated=bool(properties.integrated),
    )


def use(index: int) -> None:
    """Make a device current in the calling thread; each thread that works with it must."""
    _call("cudaSetDevice", index)


class _Resource:
    """Something of CUDA's that is given back once, at `close()`."""

    _free: str

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _call(self._free, handle)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        if self._handle is None:
            raise BackendError(
                f"a {type(self).__name__} was used after close()",
                expected="an open one",
                cure="keep the backend open while it is used",
            )
        return self._handle


class Stream(_Resource):
    """A stream of its own, which does not wait for the default stream."""

    _free = "cudaStreamDestroy"

    def __init__(self) -> None:
        super().__init__(_call("cudaStreamCreateWithFlags", _cudart().cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        """The `cudaStream_t`, as TensorRT takes it."""
        return int(self._open())

    def synchronize(self) -> None:
        """Wait until everything enqueued so far is done; errors of it are raised here."""
        _call("cudaStreamSynchronize", self._open())


class DeviceBuffer(_Resource):
    """Memory on the device, aligned to 256 bytes.

    Args:
        nbytes: its size.
    """

    _free = "cudaFree"

    def __init__(self, nbytes: int) -> None:
        super().__init__(_call("cudaMalloc", nbytes))
        self.nbytes = nbytes

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        return int(self._open())

    def fill(self, byte: int, stream: Stream) -> None:
        """Set every byte, on `stream`."""
        _call("cudaMemsetAsync", self.pointer, byte, self.nbytes, stream.handle)


class PinnedArray(_Resource):
    """A numpy array in page-locked memory, so that copies to and from the device are asynchronous.

    Args:
        shape, dtype: of `array`.
    """

    _free = "cudaFreeHost"

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = int(_call("cudaMallocHost", nbytes))
        super().__init__(pointer)
        memory = (ctypes.c_uint8 * nbytes).from_address(pointer)
        self._array = np.ndarray(shape, dtype=dtype, buffer=memoryview(memory))

    @property
    def array(self) -> np.ndarray:
        """The memory as an array.  No view of it may live longer than this object is open."""
        self._open()
        return self._array


def to_device(target: DeviceBuffer, source: np.ndarray, stream: Stream) -> None:
    """Copy a C-contiguous array, best a pinned one, to the start of `target`, on `stream`."""
    kind = _cudart().cudaMemcpyKind.cudaMemcpyHostToDevice
    _check_fits(source, target)
    _call("cudaMemcpyAsync", target.pointer, source.ctypes.data, source.nbytes, kind, stream.handle)


def to_host(target: np.ndarray, source: DeviceBuffer, stream: Stream) -> None:
    """Fill a C-contiguous array, best a pinned one, from the start of `source`, on `stream`.

    The array holds the values only after `stream.synchronize()`.
    """
    kind = _cudart().cudaMemcpyKind.cudaMemcpyDeviceToHost
    _check_fits(target, source)
    _call("cudaMemcpyAsync", target.ctypes.data, source.pointer, target.nbytes, kind, stream.handle)


def _check_fits(array: np.ndarray, buffer: DeviceBuffer) -> None:
    if not array.flags.c_contiguous or array.nbytes > buffer.nbytes:
        raise BackendError(
            f"an array of {array.nbytes} bytes, contiguous: {array.flags.c_contiguous}",
            expected=f"a C-contiguous array of at most {buffer.nbytes} bytes",
            cure="use numpy.ascontiguousarray, and no more images than the buffer was made for",
        )


def _cudart() -> ModuleType:
    """The runtime API of cuda-bindings, under its name of today or that of cuda-python 12.0 to 12.5."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?"):
                continue  # no module of this name
            raise BackendUnavailable(
                f"{name} is installed but does not load: {error}",
                expected="a working cuda-bindings",
                cure='pip install --force-reinstall "cuda-bindings>=12.6"',
            ) from error
    raise BackendUnavailable(
        "cuda-bindings is not installed",
        expected="cuda-bindings of the driver's CUDA version (12 or 13)",
        cure='pip install "cuda-bindings>=12.6" (on JetPack 6: "cuda-bindings>=12.6,<13")',
    )


def _call(function: str, *arguments: Any) -> Any:
    """Call a function of the runtime API; its result, or `BackendError` with CUDA's own name for it."""
    error, *results = getattr(_cudart(), function)(*arguments)
    if int(error):
        raise BackendError(
            f"{function} failed: {_name(error)}",
            expected="cudaSuccess",
            cure="free GPU memory if it says so; otherwise end this process, then python -m runtime doctor",
        )
    return results[0] if results else None


def _name(error: Any) -> str:
    """CUDA's name and sentence for an error code."""
    cudart = _cudart()
    name, sentence = cudart.cudaGetErrorName(error)[1], cudart.cudaGetErrorString(error)[1]
    return f"{name.decode()}: {sentence.decode()}"


def _text(version: int) -> str:
    """13020 → 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"
