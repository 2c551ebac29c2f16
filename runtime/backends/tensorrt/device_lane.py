"""Runs on images that are on the GPU already; the outputs stay on the GPU.

    the caller's array ── copy ──> lane ── copy ──> memory of the pool, which the caller gets as DeviceArrays

After the first run of a size, a run enqueues work and queries events; it does not allocate, free or wait.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from runtime.backends.cuda.base import Cuda
from runtime.backends.cuda.device_array import Source, read
from runtime.backends.cuda.memory import BufferPool, PinnedArray, Stream
from runtime.backends.tensorrt.lane import Lane
from runtime.device_explanation import DeviceArray
from runtime.errors import BackendError, InputError


class DevicePath:
    """The way of device arrays through the lanes of one engine.

    Use it from one thread at a time, inside `with cuda.current(index):`.  Only `order`, `synchronize` and
    `to_host` may be called from any thread, at any time, also during `close`.

    All lanes enqueue on one stream.  So memory that comes back to the pool can be used again at once: its
    earlier writes come first on that stream.

    Args:
        cuda: the library.
        index: number of the device.
        shape: of the images: (largest batch, height, width, 3).
    """

    def __init__(self, cuda: Cuda, *, index: int, shape: tuple[int, ...]) -> None:
        self._cuda, self._index, self._shape = cuda, index, shape
        self._pool = BufferPool(cuda, index)
        self._held: deque[tuple[int, Any]] = deque()  # event after a run, and the owner of its images
        self._events: list[int] = []  # idle
        self._waiting = 0  # number of threads that wait for an event of a run
        self._lock = threading.RLock()  # reentrant: a finaliser may run in the thread that holds it
        self.stream = Stream(cuda)

    @property
    def stream_handle(self) -> int | None:
        """See `DeviceArray.stream`."""
        return None if self.stream.closed else self.stream.handle

    def read(self, array: Any, stream: int | None) -> Source:
        """Read the address, shape and stream of the caller's array, and check them.

        Args:
            stream: the caller's stream.

        Raises:
            InputError: the array does not fit the engine, or is not on its device; or a stream capture is
                active, whose graph would keep addresses of our memory.
        """
        if stream is not None:
            self._refuse_capture(stream)
        source = read(array, self.stream.handle, self._index)
        # DLPack hides its library's stream.  If that is captured, so is ours, which now waits for it.
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
        """Enqueue a run; work enqueued later on the path's stream, or on `stream`, finds the outputs.

        Args:
            lane: on the path's stream.
            rows: see `Lane.relay`.
            source: from `read`.
            stream: the caller's stream.

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
            with suppress(BackendError):  # the first error is raised
                cuda.synchronize(ours)  # enqueued work may still read the images
                self._let_go()
            raise
        self._held.append((event, source.owner))
        return embedding, mask

    def order(self, then: int) -> None:
        """Make later work on a stream wait for every run so far; from any thread.

        Raises:
            InputError: the stream is being captured.
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
        """Wait for every run so far, from any thread; after `close()` all have ended."""
        with self._cuda.current(self._index):
            with self._lock:
                if not self._held:  # also when closed
                    return
                event = self._held[-1][0]  # a later run uses it again only when this run is done
                self._waiting += 1
            try:  # without the lock, so that other threads can go on; `close` waits by itself
                self._cuda.event_synchronize(event)
            finally:
                with self._lock:
                    self._waiting -= 1
                    if self.stream.closed:
                        self._destroy_events()
            self._let_go()

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """Copy an output to the host, from any thread, also after `close()`.

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
        """Wait for running work, then free everything except the memory of outputs still in use."""
        with self._lock, ExitStack() as last_first:
            last_first.callback(self.stream.close)
            last_first.callback(self._destroy_events)
            last_first.callback(self._pool.close)
            self._cuda.synchronize(self.stream.handle)

    def _refuse_capture(self, stream: int) -> None:
        if self._cuda.is_capturing(stream):
            raise InputError(
                f"stream {stream:#x} is inside a stream capture",
                expected="a stream that is not being captured",
                cure="call run_device, and from_dlpack of its outputs, before or after the capture",
            )

    def _event(self) -> int:
        """Take an unused event, or create one."""
        with self._lock:
            return self._events.pop() if self._events else self._cuda.event_create()

    def _destroy_events(self) -> None:
        """Destroy all events, after all runs; the last thread that waits for an event does so."""
        self._events += [event for event, _ in self._held]
        self._held.clear()
        with ExitStack() as each:
            while self._events and not self._waiting:
                each.callback(self._cuda.event_destroy, self._events.pop())

    def _let_go(self) -> None:
        """Drop references to images that the device has read."""
        with self._lock:
            while self._held and self._cuda.event_done(self._held[0][0]):
                self._events.append(self._held.popleft()[0])
