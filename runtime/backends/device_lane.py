"""Images that are on the GPU already, and outputs that stay there, around a lane that computes between them.

    the caller's array ── copy ──> lane ── copy ──> memory of the pool, which the caller gets as DeviceArrays

Once warm, a run calls CUDA only to enqueue and to ask: it allocates, frees and waits for nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from runtime.backends.buffer_pool import BufferPool
from runtime.backends.cuda_base import Cuda
from runtime.backends.cuda_memory import PinnedArray, Stream
from runtime.backends.device_array import Source, read
from runtime.backends.lane import Lane
from runtime.device_explanation import DeviceArray
from runtime.errors import BackendError, InputError


class DevicePath:
    """Used by one thread at a time, inside `with cuda.current(index):`.

    `order`, `synchronize` and `to_host` are for any thread, at any moment, also in the middle of `close`.

    All lanes of a path enqueue on its one stream, so that memory which comes back to the pool can be written
    again at once: whatever wrote it before comes first.

    Args:
        cuda: the library.
        index: number of the device.
        shape: of the images: (most rows, height, width, 3).
    """

    def __init__(self, cuda: Cuda, *, index: int, shape: tuple[int, ...]) -> None:
        self._cuda, self._index, self._shape = cuda, index, shape
        self._pool = BufferPool(cuda, index)
        self._held: deque[tuple[int, Any]] = deque()  # event after a run, owner of the images it reads
        self._events: list[int] = []  # idle
        self._waiting = 0  # threads that wait for an event of a run
        self._lock = threading.RLock()  # a finaliser may come back here, in the thread that holds it
        self.stream = Stream(cuda)

    @property
    def stream_handle(self) -> int | None:
        """See `DeviceArray.stream`."""
        return None if self.stream.closed else self.stream.handle

    def read(self, array: Any, stream: int | None) -> Source:
        """The array's images.

        Args:
            stream: of the caller.

        Raises:
            InputError: an array that is not what the engine takes, or not on its device; or inside a stream
                capture, which would keep the addresses of memory that is ours.
        """
        if stream is not None:
            self._refuse_capture(stream)
        source = read(array, self.stream.handle, self._index)
        # DLPack does not tell its owner's stream; ours, ordered after that, is then inside the capture too.
        for known in {source.stream, self.stream.handle} - {None}:
            self._refuse_capture(known)  # type: ignore[arg-type]
        rows = source.shape[0] if len(source.shape) == 4 else 0
        most, height, width, channels = self._shape
        if source.shape[1:] != self._shape[1:] or not 1 <= rows <= most:
            raise InputError(
                f"an array {source.shape} on the device",
                expected=f"(N, {height}, {width}, 3), N from 1 to {most}",
                cure="resize on the GPU, or call the explainer itself, which resizes",
            )
        self._cuda.check_pointer(source.pointer, rows * height * width * channels, self._index)
        return source

    def run(
        self, lane: Lane, rows: int, source: Source, stream: int | None
    ) -> tuple[DeviceArray, DeviceArray]:
        """Enqueue a run; the outputs are there in the order of the path's stream, and of `stream`.

        Args:
            lane: on the path's stream.
            rows: see `Lane.relay`.
            source: what `read` gave.
            stream: of the caller.

        Raises:
            BackendError: out of memory, or TensorRT failed.
        """
        cuda, ours, n = self._cuda, self.stream.handle, source.shape[0]
        self._let_go()
        embedding, mask = (
            DeviceArray(shape=(n, *shape[1:]), device=self._index, memory=self._pool.lend(nbytes), path=self)
            for shape, nbytes in lane.outputs
        )
        event = self._event()
        try:
            for theirs in {source.stream, stream} - {None}:
                cuda.order(theirs, ours, event)  # type: ignore[arg-type]
            lane.relay((source.pointer,), (embedding.pointer, mask.pointer), n, rows)
            if stream is None:
                cuda.event_record(event, ours)
            else:
                cuda.order(ours, stream, event)
        except BaseException:
            self._events.append(event)
            with suppress(BackendError):  # the first error is on its way
                cuda.synchronize(ours)  # what was enqueued may still read the images
                self._let_go()
            raise
        self._held.append((event, source.owner))
        return embedding, mask

    def order(self, then: int) -> None:
        """What is enqueued on a stream from now on waits for every run so far; by any thread.

        Raises:
            InputError: the stream is inside a stream capture.
        """
        with self._lock, self._cuda.current(self._index):
            if not self.stream.closed:
                self._refuse_capture(then)
                event = self._event()
                try:
                    self._cuda.order(self.stream.handle, then, event)
                finally:
                    self._events.append(event)

    def synchronize(self) -> None:
        """Wait for every run so far, in any thread; after `close()` they have all ended."""
        with self._cuda.current(self._index):
            with self._lock:
                if not self._held:  # also when closed
                    return
                event = self._held[-1][0]  # if a later run takes it, what was asked for is done
                self._waiting += 1
            try:  # without the lock: others may go on, and `close` waits itself
                self._cuda.event_synchronize(event)
            finally:
                with self._lock:
                    self._waiting -= 1
                    if self.stream.closed:
                        self._destroy_events()
            self._let_go()

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """A copy of an output of this path, open or closed, by any thread.

        Raises:
            BackendError: its computation failed.
        """
        self.synchronize()
        with (
            self._cuda.current(self._index),
            Stream(self._cuda) as stream,
            PinnedArray(self._cuda, array.shape, np.float32) as host,
        ):
            self._cuda.copy_out(host.handle, array.pointer, host.nbytes, stream.handle)
            self._cuda.synchronize(stream.handle)
            return host.array.copy()

    def close(self) -> None:
        """Wait for what is running, then release everything but what outputs that still live are in."""
        with self._lock, ExitStack() as last_first:
            last_first.callback(self.stream.close)
            last_first.callback(self._destroy_events)
            last_first.callback(self._pool.close)
            self._cuda.synchronize(self.stream.handle)

    def _refuse_capture(self, stream: int) -> None:
        if self._cuda.is_capturing(stream):
            raise InputError(
                f"stream {stream:#x} is inside a stream capture",
                expected="a stream that does what it is given",
                cure="call run_device, and from_dlpack of its outputs, before or after the capture",
            )

    def _event(self) -> int:
        """An event of nobody's."""
        with self._lock:
            return self._events.pop() if self._events else self._cuda.event_create()

    def _destroy_events(self) -> None:
        """Once nothing runs any more, and no thread waits for one of them: then the last that waited."""
        self._events += [event for event, _ in self._held]
        self._held.clear()
        with ExitStack() as each:
            while self._events and not self._waiting:
                each.callback(self._cuda.event_destroy, self._events.pop())

    def _let_go(self) -> None:
        """Drop the hold on images that have been read."""
        with self._lock:
            while self._held and self._cuda.event_done(self._held[0][0]):
                self._events.append(self._held.popleft()[0])
