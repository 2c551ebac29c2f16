"""Memory of the device that is used again and again: what was let go of first, the next run takes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from runtime.backends.cuda import Cuda
from runtime.backends.cuda_memory import DeviceBuffer


class BufferPool:
    """Nothing is given back to CUDA before `close()`: that would wait for everything the device does.

    Args:
        cuda: the library.
        index: number of the device.
    """

    def __init__(self, cuda: Cuda, index: int) -> None:
        self._cuda, self._index = cuda, index
        self._idle: dict[int, deque[DeviceBuffer]] = {}  # by size in bytes
        self._closed = False

    def lend(self, nbytes: int) -> Loan:
        """Memory of that size, new only where none is idle; inside `with cuda.current(index):`.

        Raises:
            BackendError: out of memory.
        """
        idle = self._idle.setdefault(nbytes, deque())
        try:
            return Loan(self, idle.popleft())
        except IndexError:
            return Loan(self, DeviceBuffer(self._cuda, nbytes))

    def close(self) -> None:
        """Free what is idle, and from now on what is lent as soon as it comes back."""
        self._closed = True
        self._free()

    def take_back(self, buffer: DeviceBuffer) -> None:
        """From any thread, at any moment, as garbage is collected.  It calls CUDA only once closed."""
        self._idle[buffer.nbytes].append(buffer)
        if self._closed:  # asked after the buffer is there; `close` looks for it after this is set
            self._free()

    def _free(self) -> None:
        with self._cuda.current(self._index):
            for idle in self._idle.values():
                while True:
                    try:
                        buffer = idle.pop()
                    except IndexError:  # also where another thread was faster
                        break
                    buffer.close()


class Loan:
    """Memory that goes back to its pool when nothing refers to this object any more."""

    __slots__ = ("_buffer", "_pool", "handle")

    def __init__(self, pool: BufferPool, buffer: DeviceBuffer) -> None:
        self._pool, self._buffer = pool, buffer
        self.handle = buffer.handle
        """Its address."""

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # at the end of the process the driver gives everything back
            self._pool.take_back(self._buffer)
