"""Embedding and mask that stay on the GPU, for applications that keep their data there."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import BackendError, InputError

CUDA = 2
"""`kDLCUDA` of DLPack's DLDeviceType."""


class Tensor(ctypes.Structure):
    """DLTensor, as in a capsule of DLPack without a version."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceArray:
    """A C-contiguous float32 array on a GPU, which other libraries read without a copy:

        torch.from_dlpack(array), cupy.from_dlpack(array)
        pycuda.gpuarray.GPUArray(array.shape, "float32", gpudata=array.pointer, base=array)

    With DLPack, work that is enqueued next on the reader's current stream finds the values.  With the CUDA
    array interface it does so if the reader heeds its `stream`, as CuPy and Numba do; torch does not.  With
    PyCUDA, call `synchronize` first.

    The memory is reserved for this array as long as something refers to it, which includes the arrays that
    these libraries make of it.  After that a later `run_device` reuses the memory, in the order of release,
    after the work on the stream that this later call is given or that its input is ready on.  It waits for no
    other stream, because the owner may have destroyed that stream: work on any other stream must have ended
    before the last reference is dropped.
    """

    shape: tuple[int, ...]
    device: int
    memory: Any
    """The `Loan` of a `BufferPool`; its `handle` is the address."""
    path: Any
    """The `runtime.backends.tensorrt.device_lane.DevicePath` that computes it."""

    @property
    def pointer(self) -> int:
        """The address on the device."""
        return self.memory.handle

    @property
    def stream(self) -> int | None:
        """The `cudaStream_t` that computes the array; None after the backend was closed."""
        return self.path.stream_handle

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the CUDA array interface; a reader that heeds `stream` need not wait."""
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind of device (2 is CUDA) and its number."""
        return CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Make a capsule for `from_dlpack` of the reader's library.

        Args:
            stream: stream of the reader on which the values must be ready: a handle; 1 or None for the legacy
                default stream, 2 for that of the calling thread; -1 if the reader waits by other means.
            max_version: ignored: the capsule has no version, which every reader accepts.
            dl_device, copy: must not ask for another device or for a copy.

        Raises:
            BufferError: a copy was asked for, or another device.
            InputError: `stream` is 0, which DLPack forbids, or inside a stream capture.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(f"an array on {self.__dlpack_device__()} is neither moved nor copied")
        if stream == 0:
            raise InputError(
                "stream 0", expected="1, 2, -1, a handle or None", cure="1 is the default stream"
            )
        if stream != -1:
            self.path.order(1 if stream is None else stream)
        return capsule_of(self.pointer, self.shape, device=self.device, owner=self)


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceExplanation:
    """Result of `Explainer.run_device`.

    Work on `embedding.stream`, or on the stream that was given to `run_device`, finds the values.  All other
    readers must call `synchronize()` first.
    """

    embedding: DeviceArray
    """float32 (N, D)."""
    mask: DeviceArray
    """float32 (N, height, width) in [0, 1], of the graph's size."""
    embedding_id: str
    """Encoder, kind of embedding and precision: only embeddings with equal ids may be compared."""

    def synchronize(self) -> None:
        """Wait for the values.

        Raises:
            BackendError: the computation failed.
        """
        self.embedding.path.synchronize()

    def check(self) -> None:
        """Wait for the values, copy them to the host, and refuse any that is not finite.

        Raises:
            BackendError: a value is not finite, or the computation failed.
        """
        arrays = {"embedding": self.embedding, "mask": self.mask}
        outputs = {name: array.path.to_host(array) for name, array in arrays.items()}
        if wrong := not_finite(outputs):
            raise BackendError(
                f"{wrong} of an explanation ({self.embedding_id}) is not finite",
                expected="finite values",
                cure="build the engine in bf16: nemu build --package PACKAGE --precision bf16",
            )


def not_finite(outputs: Mapping[str, np.ndarray]) -> str:
    """Name the arrays with values that are not finite: `the mask (3 of 24 values)`; "" if all are finite."""
    counts = {name: np.count_nonzero(~np.isfinite(array)) for name, array in outputs.items()}
    wrong = [f"the {name} ({n} of {outputs[name].size} values)" for name, n in counts.items() if n]
    return " and ".join(wrong)


def tensor_of(capsule: Any) -> Tensor:
    """The tensor in a DLPack capsule that nobody has taken yet; valid while the capsule lives."""
    return Tensor.from_address(_pointer_of(capsule, b"dltensor"))


def capsule_of(pointer: int, shape: tuple[int, ...], *, device: int, owner: object) -> Any:
    """Make a DLPack capsule of C-contiguous float32 memory on a GPU.

    NumPy makes the capsule from an array that it takes for host memory and never reads.  So the code that
    releases it is C, which may run in any thread and while an exception is raised; a Python callback may not.

    Args:
        pointer, shape: address and shape of the memory.
        device: number of the GPU.
        owner: kept alive until the reader releases the memory, or until an untaken capsule is deleted.
    """
    memory: Any = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    memory.owner = owner
    capsule = np.ndarray(shape, np.float32, buffer=memory).__dlpack__()
    tensor = tensor_of(capsule)
    tensor.device_type, tensor.device_id = CUDA, device
    return capsule
