"""One execution context with a stream and buffers of its own: photographs in, the engine's outputs out.

    photographs → pinned → device ─┐                  ┌─ embedding → pinned → a copy that the caller owns
                                   └─ execute_async_v3 ┤
                                       (own stream)    └─ mask ──────→ pinned → a copy that the caller owns

An engine that gives the embedding alone has no lower branch.
Where a CUDA graph can be had, everything between the pinned arrays is one graph, launched with one call.
It holds for one number of images only, and belongs to this context, which then runs nothing else.

A lane for images that are on the device has no pinned arrays: `relay` copies within the device, before and
after a graph that only computes, because a graph keeps its addresses and the caller's arrays change theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.backends.cuda import Cuda
from runtime.backends.cuda_memory import DeviceBuffer, Graph, PinnedArray, Resource, Stream
from runtime.backends.tensorrt_engine import INPUT, LoadedEngine
from runtime.errors import BackendError


class Lane:
    """Used by one thread at a time, inside `with cuda.current(index):`.

    Args:
        cuda: the library.
        engine: makes the context.
        shape: of the images: (rows, height, width, 3); `rows` is the most that a run takes.
        mapped: the device reads the input from the host's memory, without a copy.
        graph: record a CUDA graph, for exactly `rows` images.
        stream: images and outputs stay on the device, in the order of this stream, which others may use at
            any moment and which the lane does not close; so a graph is recorded on another one.  None: they
            come from the host, on a stream of the lane's own.

    Raises:
        BackendError: out of memory, or TensorRT failed.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: LoadedEngine,
        shape: tuple[int, ...],
        *,
        mapped: bool,
        graph: bool,
        stream: Stream | None = None,
    ) -> None:
        self._cuda, self._engine, self._shape = cuda, engine, shape
        self._from_host = stream is None
        self.no_graph = ""
        """Why the graph that was asked for is not used."""
        self._graph: Graph | None = None
        self._context: Any = None
        self._resources: list[Resource] = []
        self._unfinished: Run | None = None
        try:
            self._stream = self._keep(Stream(cuda))
            self._allocate(mapped and self._from_host)
            if graph and not cuda.no_graphs:
                self._record()
            else:
                self.no_graph = cuda.no_graphs if graph else ""
                self._compute(shape[0])  # what must be compiled or loaded, and what fails, does so now
                cuda.synchronize(self._stream.handle)
            if stream is not None:
                self._stream.close()  # all that was on it is done
                self._stream = stream
        except BaseException:
            self.close()
            raise

    def start(self, images: np.ndarray, rows: int) -> Run:
        """Enqueue a run, and return at once; the run before it is finished first, if it is not.

        Args:
            images: uint8 (N, height, width, 3), C-contiguous.
            rows: how many images to compute, at least N; with a graph, its number.  What is beyond N is
                older images, and dropped.
        """
        if self._unfinished is not None:
            self._unfinished.result()
        n = len(images)
        self._images[:n] = images
        if self._graph is None:
            self._enqueue(rows)
        else:
            self._graph.launch()
        self._unfinished = run = Run(self, n)
        return run

    def relay(self, source: int, targets: tuple[int, ...], n: int, rows: int) -> None:
        """Enqueue a run on images at `source`, with outputs to `targets`: addresses on the device.

        Args:
            n: how many images there are.
            rows: as of `start`.
        """
        cuda, stream = self._cuda, self._stream.handle
        cuda.copy(self._source, source, n * self._frame, stream)
        if self._graph is None:
            self._compute(rows)
        else:
            cuda.graph_launch(self._graph.handle, stream)
        for target, buffer, row in zip(targets, self._outputs, self._output_rows, strict=True):
            cuda.copy(target, buffer.handle, n * row, stream)

    def finish(self, n: int) -> tuple[np.ndarray, ...]:
        """Wait for the run that was started last; its outputs, the caller's to keep."""
        self._unfinished = None
        if self._context is None:
            raise BackendError(
                "the backend was closed before its run was finished",
                expected="an open backend",
                cure="ask for every result before close()",
            )
        self._cuda.synchronize(self._stream.handle)
        return tuple(array[:n].copy() for array in self._results)

    def poison(self) -> None:
        """Fill every output buffer, here and on the device, with NaN: a run that writes nothing shows."""
        stream = self._stream.handle
        for buffer in self._outputs:
            self._cuda.fill(buffer.handle, 0xFF, buffer.nbytes, stream)  # four bytes of 0xFF are a NaN
        self._cuda.synchronize(stream)
        for array in self._results:
            array.fill(np.nan)

    def close(self) -> None:
        """Wait for what is running, then release graph, context, buffers and stream, in this order.

        Everything is released even where one of them fails; the first failure is raised at the end.
        """
        failures: list[BackendError] = []
        if self._context is not None and not self._stream.closed:
            self._attempt(lambda: self._cuda.synchronize(self._stream.handle), failures)
        if self._graph is not None:
            self._attempt(self._graph.close, failures)
        self._context = None
        while self._resources:
            self._attempt(self._resources.pop().close, failures)
        if failures:
            raise failures[0]

    @staticmethod
    def _attempt(step: Any, failures: list[BackendError]) -> None:
        try:
            step()
        except BackendError as error:
            failures.append(error)

    def _keep(self, resource: Any) -> Any:
        self._resources.append(resource)
        return resource

    def _allocate(self, mapped: bool) -> None:
        """The context, buffers for its largest batch, and their addresses to the context."""
        self._make_context()
        names, rows = self._engine.outputs, self._shape[0]
        shapes = [tuple(int(side) for side in self._context.get_tensor_shape(name)) for name in names]
        self.outputs = [(shape, 4 * math.prod(shape)) for shape in shapes]
        """Shape, and size in bytes, of each output of as many images as the lane takes."""
        self._output_rows = [nbytes // rows for _, nbytes in self.outputs]
        self._frame = math.prod(self._shape[1:])
        self._hosts: list[PinnedArray] = []
        self._results: list[np.ndarray] = []
        if self._from_host:
            self._pin(mapped)
        self._input = None if mapped else self._keep(DeviceBuffer(self._cuda, rows * self._frame))
        self._outputs = [self._keep(DeviceBuffer(self._cuda, nbytes)) for _, nbytes in self.outputs]
        self._source = self._hosts[0].device_pointer if self._input is None else self._input.handle
        pointers = (self._source, *(buffer.handle for buffer in self._outputs))
        self._addresses = dict(zip((INPUT, *names), pointers, strict=True))
        self._bind()

    def _make_context(self) -> None:
        self._context = self._engine.context(
            self._shape, lambda nbytes: self._keep(DeviceBuffer(self._cuda, nbytes)).handle
        )
        self._rows = self._shape[0]  # that the context is set to

    def _bind(self) -> None:
        """Give the context its addresses."""
        for name, pointer in self._addresses.items():
            self._engine.must(self._context.set_tensor_address(name, pointer), f"set_tensor_address {name}")

    def _renew(self) -> None:
        """Another context in the place of this one, after the engine was told how to make it."""
        self._context = None
        self._make_context()
        self._bind()

    def _pin(self, mapped: bool) -> None:
        """Arrays of the host, of the images and of each output."""
        self._hosts = [self._keep(PinnedArray(self._cuda, self._shape, np.uint8, mapped=mapped))]
        for shape, _ in self.outputs:
            self._hosts.append(self._keep(PinnedArray(self._cuda, shape, np.float32)))
        self._images, *self._results = [host.array for host in self._hosts]

    def _set_rows(self, rows: int) -> None:
        if rows != self._rows:
            shape = (rows, *self._shape[1:])
            self._engine.must(self._context.set_input_shape(INPUT, shape), f"set_input_shape {shape}")
            self._rows = rows

    def _compute(self, rows: int) -> None:
        """Buffer to buffer, on the device."""
        self._set_rows(rows)
        self._engine.must(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def _enqueue(self, rows: int, between: Callable[[], None] | None = None) -> None:
        """Pinned array to pinned array, `between` in the middle if given; a graph of the host records it."""
        cuda, stream = self._cuda, self._stream.handle
        if self._input is not None:
            cuda.copy_in(self._source, self._hosts[0].handle, rows * self._frame, stream)
        if between is None:
            self._compute(rows)
        else:
            between()
        for host, buffer, row in zip(self._hosts[1:], self._outputs, self._output_rows, strict=True):
            cuda.copy_out(host.handle, buffer.handle, rows * row, stream)

    def _record(self) -> None:
        """Warm up, record, and compare the replay with the plain run; `no_graph` if there is no graph."""
        if not self._from_host:
            self._pin(mapped=False)  # for the comparison
        self._images[:] = np.resize(np.arange(251, dtype=np.uint8), self._images.shape)
        expected = self._plain_run()  # kernels load and shapes settle in a run that is not recorded
        self.no_graph = self._try_graph(expected)
        if self.no_graph:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._plain_run()  # raises here, not in the first run, if the attempt left something broken
        if not self._from_host:
            del self._images
            self._results = []  # views must not outlive their memory
            while self._hosts:
                self._hosts.pop().close()

    def _plain_run(self) -> list[np.ndarray]:
        self._enqueue(self._shape[0])
        self._cuda.synchronize(self._stream.handle)
        return [array.copy() for array in self._results]

    def _try_graph(self, expected: list[np.ndarray]) -> str:
        """Record and replay; why it cannot be used, or nothing."""
        ask = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX knows
        if ask is not None and not ask(self._stream.handle):
            return self._leave_to_library(expected)
        rows = self._shape[0]
        work = self._enqueue if self._from_host else self._compute
        try:
            self._graph = graph = Graph(self._cuda, self._stream, lambda: work(rows))
            self.poison()
            if self._input is not None:
                self._cuda.fill(self._source, 0, self._input.nbytes, self._stream.handle)
            if self._from_host:
                graph.launch()
            else:
                self._enqueue(rows, graph.launch)
            self._cuda.synchronize(self._stream.handle)
        except BackendError as error:
            return f"it could not be recorded: {error.came}"
        return "" if _same(self._results, expected) else "its replay did not give what a plain run gives"

    def _leave_to_library(self, expected: list[np.ndarray]) -> str:
        """TensorRT-RTX records what it launches itself, where we cannot; what became of that."""
        refused = f"TensorRT-RTX says that this engine cannot be recorded{self._engine.cannot_record}"
        if not self._engine.records_itself:
            if not self._engine.record_itself(True):
                return refused
            self._renew()
        for _ in range(2):  # it records in the first run, and replays in the second
            self.poison()
            outputs = self._plain_run()
        if _same(outputs, expected):
            return f"{refused}; TensorRT-RTX records what it launches by itself instead"
        self._engine.record_itself(False)
        self._renew()
        return f"{refused}, and what it records by itself did not give what a plain run gives"


def _same(outputs: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Far above what two runs of the same kernels differ by, far below what stale outputs differ by."""
    return all(
        np.allclose(one, plain, rtol=0, atol=1e-2 * float(np.abs(plain).max()))
        for one, plain in zip(outputs, expected, strict=True)
    )


class Run:
    """A run that was started."""

    def __init__(self, lane: Lane, n: int) -> None:
        self._lane, self._n = lane, n
        self._outputs: tuple[np.ndarray, ...] | None = None

    def result(self) -> tuple[np.ndarray, ...]:
        """Wait for it: embedding float32 (N, D) and, unless the engine has none, mask float32 (N, H, W)."""
        if self._outputs is None:
            self._outputs = self._lane.finish(self._n)
        return self._outputs
