"""One execution context with a stream and buffers of its own: photographs in, the engine's outputs out.

    photographs → pinned → device ─┐                  ┌─ embedding → pinned → a copy that the caller owns
                                   └─ execute_async_v3 ┤
                                       (own stream)    └─ mask ──────→ pinned → a copy that the caller owns

An engine that gives the embedding alone has no lower branch.
Where a CUDA graph can be had, everything between the pinned arrays is one graph, launched with one call.
It holds for one number of images only, and belongs to this context, which then runs nothing else.
"""

from __future__ import annotations

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

    Raises:
        BackendError: out of memory, or TensorRT failed.
    """

    def __init__(
        self, cuda: Cuda, engine: LoadedEngine, shape: tuple[int, ...], *, mapped: bool, graph: bool
    ) -> None:
        self._cuda, self._engine, self._shape = cuda, engine, shape
        self.no_graph = ""
        """Why the graph that was asked for is not used."""
        self._graph: Graph | None = None
        self._context: Any = None
        self._resources: list[Resource] = []
        self._unfinished: Run | None = None
        try:
            self._stream = self._keep(Stream(cuda))
            self._allocate(mapped)
            self._rows = 0  # rows that the context is set to
            self._set_rows(shape[0])
            if graph:
                self._record()
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
        """The context, buffers for its largest batch on both sides, and their addresses to the context."""
        self._context = self._engine.context()
        must = self._engine.must
        must(self._context.set_input_shape(INPUT, self._shape), f"set_input_shape {self._shape}")
        outputs = self._engine.outputs
        shapes = [tuple(int(side) for side in self._context.get_tensor_shape(name)) for name in outputs]
        hosts = [self._keep(PinnedArray(self._cuda, self._shape, np.uint8, mapped=mapped))]
        hosts += [self._keep(PinnedArray(self._cuda, shape, np.float32)) for shape in shapes]
        self._images, *self._results = (host.array for host in hosts)
        self._input = None if mapped else self._keep(DeviceBuffer(self._cuda, hosts[0].nbytes))
        self._outputs = [self._keep(DeviceBuffer(self._cuda, host.nbytes)) for host in hosts[1:]]
        source = hosts[0].device_pointer if self._input is None else self._input.handle
        for name, pointer in zip(
            (INPUT, *outputs), (source, *(b.handle for b in self._outputs)), strict=True
        ):
            must(self._context.set_tensor_address(name, pointer), f"set_tensor_address {name}")
        self._copies = [
            (host.handle, buffer.handle, host.nbytes // self._shape[0])
            for host, buffer in zip(hosts[1:], self._outputs, strict=True)
        ]
        self._source, self._frame = hosts[0].handle, hosts[0].nbytes // self._shape[0]

    def _set_rows(self, rows: int) -> None:
        if rows != self._rows:
            shape = (rows, *self._shape[1:])
            self._engine.must(self._context.set_input_shape(INPUT, shape), f"set_input_shape {shape}")
            self._rows = rows

    def _enqueue(self, rows: int) -> None:
        """One run without a graph; also what a graph records."""
        cuda, stream = self._cuda, self._stream.handle
        self._set_rows(rows)
        if self._input is not None:
            cuda.copy_in(self._input.handle, self._source, rows * self._frame, stream)
        self._engine.must(self._context.execute_async_v3(stream), "execute_async_v3")
        for host, device, row in self._copies:
            cuda.copy_out(host, device, rows * row, stream)

    def _record(self) -> None:
        """Warm up, record, and compare the replay with the plain run; `no_graph` if there is no graph."""
        if self._cuda.no_graphs:
            self.no_graph = self._cuda.no_graphs
            return
        self._images[:] = np.resize(np.arange(251, dtype=np.uint8), self._images.shape)
        expected = self._plain_run()  # kernels load and shapes settle in a run that is not recorded
        self.no_graph = self._try_graph(expected)
        if self.no_graph:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._plain_run()  # raises here, not in the first run, if the attempt left something broken

    def _plain_run(self) -> list[np.ndarray]:
        self._enqueue(self._shape[0])
        self._cuda.synchronize(self._stream.handle)
        return [array.copy() for array in self._results]

    def _try_graph(self, expected: list[np.ndarray]) -> str:
        """Record and replay; why it cannot be used, or nothing."""
        ask = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX knows
        if ask is not None and not ask(self._stream.handle):
            return "TensorRT-RTX says that this engine cannot be recorded"
        try:
            self._graph = Graph(self._cuda, self._stream, lambda: self._enqueue(self._shape[0]))
            self.poison()
            if self._input is not None:
                self._cuda.fill(self._input.handle, 0, self._input.nbytes, self._stream.handle)
            self._graph.launch()
            self._cuda.synchronize(self._stream.handle)
        except BackendError as error:
            return f"it could not be recorded: {error.came}"
        for replayed, plain in zip(self._results, expected, strict=True):
            # Far above what two runs of the same kernels differ by, far below what stale outputs differ by.
            if not np.allclose(replayed, plain, rtol=0, atol=1e-2 * float(np.abs(plain).max())):
                return "its replay did not give what a plain run gives"
        return ""


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
