"""One execution context with a stream and buffers of its own: the engine's inputs in, its outputs out.

    photographs → pinned → device ─┐                  ┌─ embedding → pinned → a copy that the caller owns
                                   └─ execute_async_v3 ┤
                                       (own stream)    └─ mask ──────→ pinned → a copy that the caller owns

An engine that gives the embedding alone has no lower branch on the right; to one that takes targets they come
beside the photographs, on the same way.
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
from runtime.backends.tensorrt_engine import DTYPES, INPUT, LoadedEngine, Shapes
from runtime.errors import BackendError


class Lane:
    """Used by one thread at a time, inside `with cuda.current(index):`.

    Args:
        cuda: the library.
        engine: makes the context.
        shapes: of the inputs; their `rows` is the most that a run takes.
        mapped: the device reads the inputs from the host's memory, without a copy.
        graph: record a CUDA graph, for exactly `rows` images.
        stream: inputs and outputs stay on the device, in the order of this stream, which others may use at
            any moment and which the lane does not close; so a graph is recorded on another one.  None: they
            come from the host, on a stream of the lane's own.

    Raises:
        BackendError: out of memory, or TensorRT failed.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: LoadedEngine,
        shapes: Shapes,
        *,
        mapped: bool,
        graph: bool,
        stream: Stream | None = None,
    ) -> None:
        self._cuda, self._engine, self._shapes = cuda, engine, shapes
        self._most = shapes[INPUT][0]
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
                self._compute(self._most)  # what must be compiled or loaded, and what fails, does so now
                cuda.synchronize(self._stream.handle)
            if stream is not None:
                self._stream.close()  # all that was on it is done
                self._stream = stream
        except BaseException:
            self.close()
            raise

    def start(self, inputs: tuple[np.ndarray, ...], rows: int) -> Run:
        """Enqueue a run, and return at once; the run before it is finished first, if it is not.

        Args:
            inputs: N rows of each, in the engine's order; C-contiguous.
            rows: how many images to compute, at least N; with a graph, its number.  What is beyond N is
                older images, and dropped.
        """
        if self._unfinished is not None:
            self._unfinished.result()
        n = len(inputs[0])
        for array, given in zip(self._given, inputs, strict=True):
            array[:n] = given
        if self._graph is None:
            self._enqueue(rows)
        else:
            self._graph.launch()
        self._unfinished = run = Run(self, n)
        return run

    def relay(self, sources: tuple[int, ...], targets: tuple[int, ...], n: int, rows: int) -> None:
        """Enqueue a run on inputs at `sources`, with outputs to `targets`: addresses on the device.

        Args:
            n: how many images there are.
            rows: as of `start`.
        """
        cuda, stream = self._cuda, self._stream.handle
        for buffer, source, row in zip(self._inputs, sources, self._input_rows, strict=True):
            cuda.copy(buffer.handle, source, n * row, stream)
        if self._graph is None:
            self._compute(rows)
        else:
            cuda.graph_launch(self._graph.handle, stream)
        for target, buffer, row in zip(targets, self._outputs, self._output_rows, strict=True):
            cuda.copy(target, buffer.handle, n * row, stream)

    def launch(self, rows: int, *, plain: bool = False) -> None:
        """Enqueue the computation alone, on the device buffers of a lane for images on the device.

        Args:
            rows: as in `start`.
            plain: without the CUDA graph, even if there is one.
        """
        if plain or self._graph is None:
            self._compute(rows)
        else:
            self._cuda.graph_launch(self._graph.handle, self._stream.handle)

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
        names, rows = self._engine.outputs, self._most
        shapes = [tuple(int(side) for side in self._context.get_tensor_shape(name)) for name in names]
        self.outputs = [(shape, 4 * math.prod(shape)) for shape in shapes]
        """Shape, and size in bytes, of each output of as many images as the lane takes."""
        self._output_rows = [nbytes // rows for _, nbytes in self.outputs]
        sizes = [np.dtype(DTYPES[name]).itemsize * math.prod(s) for name, s in self._shapes.items()]
        self._input_rows = [nbytes // rows for nbytes in sizes]
        self._hosts: list[PinnedArray] = []
        self._given: list[np.ndarray] = []
        self._results: list[np.ndarray] = []
        if self._from_host:
            self._pin(mapped)
        self._inputs = [self._keep(DeviceBuffer(self._cuda, nbytes)) for nbytes in sizes if not mapped]
        self._outputs = [self._keep(DeviceBuffer(self._cuda, nbytes)) for _, nbytes in self.outputs]
        sources = [host.device_pointer for host in self._hosts[: len(sizes)]] if mapped else []
        pointers = (*sources, *(buffer.handle for buffer in (*self._inputs, *self._outputs)))
        self._addresses = dict(zip((*self._shapes, *names), pointers, strict=True))
        self._bind()

    def _make_context(self) -> None:
        self._context = self._engine.context(
            self._shapes, lambda nbytes: self._keep(DeviceBuffer(self._cuda, nbytes)).handle
        )
        self._rows = self._most  # that the context is set to

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
        """Arrays of the host, of each input and of each output."""
        for name, shape in self._shapes.items():
            self._hosts.append(self._keep(PinnedArray(self._cuda, shape, DTYPES[name], mapped=mapped)))
        for shape, _ in self.outputs:
            self._hosts.append(self._keep(PinnedArray(self._cuda, shape, np.float32)))
        arrays = [host.array for host in self._hosts]
        self._given, self._results = arrays[: len(self._shapes)], arrays[len(self._shapes) :]

    def _set_rows(self, rows: int) -> None:
        if rows != self._rows:
            for name, (_, *rest) in self._shapes.items():
                shape = (rows, *rest)
                done = self._context.set_input_shape(name, shape)
                self._engine.must(done, f"set_input_shape {name} {shape}")
            self._rows = rows

    def _compute(self, rows: int) -> None:
        """Buffer to buffer, on the device."""
        self._set_rows(rows)
        self._engine.must(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def _enqueue(self, rows: int, between: Callable[[], None] | None = None) -> None:
        """Pinned array to pinned array, `between` in the middle if given; a graph of the host records it."""
        cuda, stream = self._cuda, self._stream.handle
        for i, buffer in enumerate(self._inputs):  # none, if they are mapped
            host, row = self._hosts[i], self._input_rows[i]
            cuda.copy_in(buffer.handle, host.handle, rows * row, stream)
        if between is None:
            self._compute(rows)
        else:
            between()
        hosts = self._hosts[len(self._shapes) :]
        for host, buffer, row in zip(hosts, self._outputs, self._output_rows, strict=True):
            cuda.copy_out(host.handle, buffer.handle, rows * row, stream)

    def _record(self) -> None:
        """Warm up, record, and compare the replay with the plain run; `no_graph` if there is no graph."""
        if not self._from_host:
            self._pin(mapped=False)  # for the comparison
        self._make_up_inputs()
        expected = self._plain_run()  # kernels load and shapes settle in a run that is not recorded
        self.no_graph = self._try_graph(expected)
        if self.no_graph:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._plain_run()  # raises here, not in the first run, if the attempt left something broken
        if not self._from_host:
            self._given, self._results = [], []  # views must not outlive their memory
            while self._hosts:
                self._hosts.pop().close()

    def _make_up_inputs(self) -> None:
        """Images of all colours, and targets that are not zeros, to compare runs on."""
        for array in self._given:
            values = np.resize(np.arange(251, dtype=np.uint8), array.shape)
            array[:] = values if array.dtype == np.uint8 else values / np.float32(251)

    def _plain_run(self) -> list[np.ndarray]:
        self._enqueue(self._most)
        self._cuda.synchronize(self._stream.handle)
        return [array.copy() for array in self._results]

    def _try_graph(self, expected: list[np.ndarray]) -> str:
        """Record and replay; why it cannot be used, or nothing."""
        ask = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX knows
        if ask is not None and not ask(self._stream.handle):
            return self._leave_to_library(expected)
        rows = self._most
        work = self._enqueue if self._from_host else self._compute
        try:
            self._graph = graph = Graph(self._cuda, self._stream, lambda: work(rows))
            self.poison()
            for buffer in self._inputs:
                self._cuda.fill(buffer.handle, 0, buffer.nbytes, self._stream.handle)
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
