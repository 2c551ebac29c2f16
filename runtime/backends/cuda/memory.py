"""CUDA's streams, memory of device and host, and graphs, as objects with `close()`; and a pool of memory.

Every object may be closed twice.  All calls must be inside `with cuda.current(index):`.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.backends.cuda.base import Cuda
from runtime.errors import BackendError


class Resource:
    """A CUDA handle that `close()` frees once."""

    def __init__(self, handle: int, free: Callable[[int], None]) -> None:
        self._handle: int | None = handle
        self._free = free

    @property
    def handle(self) -> int:
        """The driver's handle or address.

        Raises:
            BackendError: it was closed.
        """
        if self._handle is None:
            raise BackendError(
                f"a {type(self).__name__} was used after close()",
                expected="an open one",
                cure="keep the backend open while it is used",
            )
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._handle is None

    def close(self) -> None:
        """Free it; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._free(handle)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Resource):
    """A new stream, which does not wait for the default stream."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.stream_create(), cuda.stream_destroy)


class DeviceBuffer(Resource):
    """Device memory, aligned to 256 bytes.

    Args:
        nbytes: its size.
    """

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        super().__init__(cuda.malloc(nbytes), cuda.free)
        self.nbytes = nbytes


class PinnedArray(Resource):
    """A numpy array in page-locked memory, so that copies to and from the device are asynchronous.

    Args:
        shape, dtype: of `array`.
        mapped: the device can read and write it directly, at `device_pointer`.
    """

    def __init__(
        self, cuda: Cuda, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool = False
    ) -> None:
        self.nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        super().__init__(cuda.host_alloc(self.nbytes, mapped=mapped), cuda.host_free)
        self._cuda = cuda
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self.handle)
        self._array: np.ndarray = np.ndarray(shape, dtype=dtype, buffer=memoryview(memory))

    @property
    def array(self) -> np.ndarray:
        """The memory as an array.  Drop every view of it before `close()`."""
        _ = self.handle
        return self._array

    @property
    def device_pointer(self) -> int:
        """The device's address of it, if it is mapped."""
        return self._cuda.mapped_pointer(self.handle)


class Graph(Resource):
    """A CUDA graph of what `work` enqueues on `stream`; `launch` executes it with one call.

    Args:
        stream: not the default stream.
        work: must not allocate or wait.

    Raises:
        BackendError: `work` raised it, or enqueued something that cannot be captured.
    """

    def __init__(self, cuda: Cuda, stream: Stream, work: Callable[[], None]) -> None:
        cuda.begin_capture(stream.handle)
        try:
            work()
        except BaseException:
            _abandon(cuda, stream)
            raise
        super().__init__(cuda.end_capture(stream.handle), cuda.graph_destroy)
        self._launch, self._stream = cuda.graph_launch, stream.handle

    def launch(self) -> None:
        """Enqueue the graph on the stream that it was captured on."""
        self._launch(self.handle, self._stream)


def _abandon(cuda: Cuda, stream: Stream) -> None:
    """End a capture whose work failed, so that the stream is usable again."""
    try:
        graph = cuda.end_capture(stream.handle)
    except BackendError:
        return  # the caller raises the error that broke the capture
    cuda.graph_destroy(graph)


class BufferPool:
    """Lends the buffer that was returned first.

    It keeps returned buffers until `close()`: to free memory earlier would wait for all work on the device.

    Args:
        cuda: the library.
        index: number of the device.
    """

    def __init__(self, cuda: Cuda, index: int) -> None:
        self._cuda, self._index = cuda, index
        self._idle: dict[int, deque[DeviceBuffer]] = {}  # by size in bytes
        self._closed = False

    def lend(self, nbytes: int) -> Loan:
        """Lend an idle buffer of that size, or a new one; call it inside `with cuda.current(index):`.

        Raises:
            BackendError: out of memory.
        """
        idle = self._idle.setdefault(nbytes, deque())
        try:
            return Loan(self, idle.popleft())
        except IndexError:
            return Loan(self, DeviceBuffer(self._cuda, nbytes))

    def close(self) -> None:
        """Free all idle buffers now, and lent buffers as soon as they come back."""
        self._closed = True
        self._free()

    def take_back(self, buffer: DeviceBuffer) -> None:
        """Take a buffer back, from any thread, as garbage is collected.  Calls CUDA only after `close()`."""
        self._idle[buffer.nbytes].append(buffer)
        if self._closed:  # checked after the append, and `close` sets it before it frees: no buffer is missed
            self._free()

    def _free(self) -> None:
        with self._cuda.current(self._index):
            for idle in self._idle.values():
                while True:
                    try:
                        buffer = idle.pop()
                    except IndexError:  # also if another thread took the last one
                        break
                    buffer.close()


class Loan:
    """Memory that goes back to its pool when the last reference to this object goes."""

    __slots__ = ("_buffer", "_pool", "handle")

    def __init__(self, pool: BufferPool, buffer: DeviceBuffer) -> None:
        self._pool, self._buffer = pool, buffer
        self.handle = buffer.handle
        """Its address."""

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # at the end of the process the driver frees everything
            self._pool.take_back(self._buffer)
