"""A pool of device memory: a run takes the buffer that was returned first."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from runtime.backends.cuda.base import Cuda
from runtime.backends.cuda.memory import DeviceBuffer


class BufferPool:
    """Keeps returned buffers until `close()`: to free memory earlier would wait for all work on the device.

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
