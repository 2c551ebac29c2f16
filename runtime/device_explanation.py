"""Embedding and mask that never left the GPU: for applications that keep their own data there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.errors import BackendError
from runtime.finite import not_finite


class _Memory(Protocol):
    @property
    def handle(self) -> int: ...


class _Path(Protocol):
    """What computed an array, see `runtime.backends.device_lane.DevicePath`."""

    @property
    def stream_handle(self) -> int | None: ...
    def synchronize(self) -> None: ...
    def to_host(self, array: DeviceArray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceArray:
    """A C-contiguous float32 array on a GPU, which other libraries take without a copy:

        torch.as_tensor(array, device="cuda"), cupy.asarray(array)
        pycuda.gpuarray.GPUArray(array.shape, "float32", gpudata=array.pointer, base=array)

    Its memory is its own until nothing refers to the array any more: also what these three make of it keeps
    it.  A later `run_device` then writes there, after the work on the stream that *it* is given.  So work on
    any other stream must have ended before the last reference goes.
    """

    shape: tuple[int, ...]
    device: int
    memory: _Memory
    path: _Path

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        return self.memory.handle

    @property
    def stream(self) -> int | None:
        """The `cudaStream_t` that it is computed on; None once the backend is closed, and all is computed."""
        return self.path.stream_handle

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the CUDA array interface; who honours `stream` need not wait for the values."""
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": self.stream,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceExplanation:
    """What `Explainer.run_device` returns.

    The values are there in the order of `embedding.stream`, in that of the stream that was given to
    `run_device`, and for every reader after `synchronize()`.
    """

    embedding: DeviceArray
    """float32 (N, D)."""
    mask: DeviceArray
    """float32 (N, height, width) in [0, 1], of the graph's size."""
    embedding_id: str
    """Encoder, kind of embedding and precision: only equal ids may be compared."""

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
                cure="build the engine in bf16: "
                "python -m export.build_engine --package PACKAGE --precision bf16",
            )
