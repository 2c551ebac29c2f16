"""A lane: one execution context with its own stream and buffers.

    images → pinned → device ─┐                   ┌─ embedding → pinned → a copy that the caller owns
                              └─ execute_async_v3 ─┤
                                  (own stream)     └─ mask ──────→ pinned → a copy that the caller owns

An engine without a mask has no lower branch.  An engine with targets gets them in the same way as the images.
A lane for images on the device has no pinned arrays: `relay` copies within the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.backends.cuda.base import Cuda
from runtime.backends.cuda.memory import DeviceBuffer, Graph, PinnedArray, Resource, Stream
from runtime.backends.tensorrt.engine import DTYPES, INPUT, LoadedEngine, Shapes
from runtime.errors import BackendError


class Lane:
    """Use it from one thread at a time, inside `with cuda.current(index):`.

    Args:
        cuda: the library.
        engine: makes the context.
        shapes: of the inputs; their rows are the largest batch of a run.
        mapped: the device reads the inputs directly from host memory.
        stream: None for inputs from the host, on a stream that the lane makes.  Otherwise inputs and outputs
            stay on the device, in the order of this stream, which the lane does not close.

    Raises:
        BackendError: there is not enough memory, or TensorRT failed.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: LoadedEngine,
        shapes: Shapes,
        *,
        mapped: bool,
        stream: Stream | None = None,
    ) -> None:
        self._cuda, self._engine, self._shapes = cuda, engine, shapes
        self._most = shapes[INPUT][0]
        self._from_host = stream is None
        self.no_graph = ""
        """Why there is no graph although one was asked for; empty otherwise."""
        self._graph: Graph | None = None
        self._context: Any = None
        self._resources: list[Resource] = []
        self._unfinished: Run | None = None
        try:
            self._stream = self._keep(Stream(cuda))
            self._allocate(mapped and self._from_host)
            self._prepare()
            if stream is not None:
                self._stream.close()  # its work is done
                self._stream = stream
        except BaseException:
            self.close()
            raise

    def start(self, inputs: tuple[np.ndarray, ...], rows: int) -> Run:
        """Enqueue a run and return at once; first finishes the run before it.

        Args:
            inputs: N rows of each input, in the engine's order; C-contiguous.
            rows: number of rows to compute, at least N; with a graph, its batch size.  The rows after N have
                older images, and their outputs are dropped.
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
        """Enqueue a run from inputs at `sources` to outputs at `targets`: addresses on the device.

        Args:
            n: number of images.
            rows: as in `start`.
        """
        cuda, stream = self._cuda, self._stream.handle
        for buffer, source, row in zip(self._inputs, sources, self._input_rows, strict=True):
            cuda.copy(buffer.handle, source, n * row, stream)
        self.launch(rows)
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
        """Wait for the last run, and return copies of its first n outputs."""
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
        """Fill every output buffer, on host and device, with NaN, to notice a run that writes nothing."""
        stream = self._stream.handle
        for buffer in self._outputs:
            self._cuda.fill(buffer.handle, 0xFF, buffer.nbytes, stream)  # four bytes of 0xFF are a NaN
        self._cuda.synchronize(stream)
        for array in self._results:
            array.fill(np.nan)

    def close(self) -> None:
        """Wait for running work, then release graph, context, buffers and stream, in this order.

        If a release fails, the others are done all the same, and the first error is raised at the end.
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

    def _prepare(self) -> None:
        """Run once on the device, so that TensorRT compiles, loads or fails now."""
        self._compute(self._most)
        self._cuda.synchronize(self._stream.handle)

    def _keep(self, resource: Any) -> Any:
        self._resources.append(resource)
        return resource

    def _allocate(self, mapped: bool) -> None:
        """Make the context and buffers for the largest batch, and give the context their addresses."""
        self._make_context()
        names, rows = self._engine.outputs, self._most
        shapes = [tuple(int(side) for side in self._context.get_tensor_shape(name)) for name in names]
        self.outputs = [(shape, 4 * math.prod(shape)) for shape in shapes]
        """Shape and size in bytes of each output, for the largest batch."""
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
        self._rows = self._most  # the context's present batch

    def _bind(self) -> None:
        """Give the context the addresses of the buffers."""
        for name, pointer in self._addresses.items():
            self._engine.must(self._context.set_tensor_address(name, pointer), f"set_tensor_address {name}")

    def _renew(self) -> None:
        """Replace the context, after a change of how the engine makes contexts."""
        self._context = None
        self._make_context()
        self._bind()

    def _pin(self, mapped: bool) -> None:
        """Make page-locked host arrays for each input and output."""
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
        """Enqueue the computation from input buffers to output buffers."""
        self._set_rows(rows)
        self._engine.must(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def _enqueue(self, rows: int, between: Callable[[], None] | None = None) -> None:
        """Enqueue copies from the host, the computation (or `between`), and copies to the host."""
        cuda, stream = self._cuda, self._stream.handle
        for i, buffer in enumerate(self._inputs):  # empty if inputs are mapped
            host, row = self._hosts[i], self._input_rows[i]
            cuda.copy_in(buffer.handle, host.handle, rows * row, stream)
        if between is None:
            self._compute(rows)
        else:
            between()
        hosts = self._hosts[len(self._shapes) :]
        for host, buffer, row in zip(hosts, self._outputs, self._output_rows, strict=True):
            cuda.copy_out(host.handle, buffer.handle, rows * row, stream)


class Run:
    """A run that is enqueued."""

    def __init__(self, lane: Lane, n: int) -> None:
        self._lane, self._n = lane, n
        self._outputs: tuple[np.ndarray, ...] | None = None

    def result(self) -> tuple[np.ndarray, ...]:
        """Wait for the outputs: embedding float32 (N, D) and, if there is one, mask float32 (N, H, W)."""
        if self._outputs is None:
            self._outputs = self._lane.finish(self._n)
        return self._outputs
