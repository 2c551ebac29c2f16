"""An engine with nothing of ours around it but memory and a stream; no torch, so that it runs on a Jetson.

Run so far over stand-ins.  On a GPU: see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.interleave import Call
from runtime.backends import cuda
from runtime.backends.cuda_memory import DeviceBuffer, Graph, PinnedArray, Stream
from runtime.backends.rtx_cache import RtxCache
from runtime.backends.tensorrt_engine import INPUT, LoadedEngine
from runtime.backends.tensorrt_library import library
from runtime.errors import BackendError
from runtime.manifest import TOWARD
from runtime.package import Engine


class RawEngine:
    """An engine of a package on buffers and a stream; used and closed while the device is current.

    Args:
        shape: of the images, within the engine's profile; they and targets, if it takes any, are random.
        stream: not the default one.

    Raises:
        BackendError: it does not load, or its first run fails.
    """

    def __init__(self, engine: Engine, shape: tuple[int, ...], stream: Stream) -> None:
        self._cuda, self._stream = cuda.implementation(), stream
        cache = RtxCache(engine.record, cuda.device(0))
        self._engine = LoadedEngine(library(engine.record.flavour), engine, engine.read(), cache)
        self._context: Any = None
        self._memory = ExitStack()
        self._graph: Graph | None = None
        try:
            inputs = self._random_inputs(shape)
            self._context = self._engine.context(
                {name: array.shape for name, array in inputs.items()},
                lambda nbytes: self._keep(DeviceBuffer(self._cuda, nbytes)).handle,
            )
            buffers = {name: self._uploaded(array) for name, array in inputs.items()}
            self._outputs = {name: self._output(name) for name in engine.record.outputs}
            addresses = {**buffers, **{name: pair[0] for name, pair in self._outputs.items()}}
            for name, buffer in addresses.items():
                self._engine.must(self._context.set_tensor_address(name, buffer.handle), "set_tensor_address")
            self.enqueue()
            self.finish()
        except BaseException:
            self.close()
            raise

    def enqueue(self) -> None:
        """One run, on the stream."""
        self._engine.must(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")

    def finish(self) -> None:
        """Wait for the stream."""
        self._cuda.synchronize(self._stream.handle)

    def graph(self) -> Call:
        """A call that replays the run as a CUDA graph, checked against a plain run with poisoned outputs.

        Raises:
            BackendError: it cannot be captured, or the replay gives something else.
        """
        ask = getattr(self._context, "is_stream_capturable", None)
        if self._cuda.no_graphs or (ask is not None and not ask(self._stream.handle)):
            raise BackendError(
                self._cuda.no_graphs or f"the library forbids capture{self._engine.cannot_record}",
                expected="an engine that can be captured",
                cure="run without a graph",
            )
        expected = self._read()
        graph = self._graph = Graph(self._cuda, self._stream, self.enqueue)
        for buffer, _ in self._outputs.values():
            self._cuda.fill(buffer.handle, 0xFF, buffer.nbytes, self._stream.handle)
        graph.launch()
        for (name, plain), replayed in zip(expected.items(), self._read().values(), strict=True):
            if not np.allclose(replayed, plain, rtol=1e-2, atol=1e-2 * float(np.abs(plain).max())):
                raise BackendError(
                    f"the replayed CUDA graph gives another {name} than a plain run",
                    expected="the same outputs",
                    cure="run without a graph",
                )
        return graph.launch

    def plain(self) -> Call:
        """A call that enqueues the run; a graph of it is given up."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        return self.enqueue

    def close(self) -> None:
        """Give everything back."""
        self.finish()
        self.plain()
        self._context = None
        self._memory.close()
        self._engine.close()

    def _keep(self, resource: Any) -> Any:
        return self._memory.enter_context(resource)

    def _random_inputs(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        inputs: dict[str, np.ndarray] = {INPUT: rng.integers(0, 256, shape, dtype=np.uint8)}
        if TOWARD in self._engine.inputs:
            inputs[TOWARD] = rng.standard_normal((shape[0], self._engine.dimension), np.float32)
        return inputs

    def _uploaded(self, array: np.ndarray) -> DeviceBuffer:
        buffer: DeviceBuffer = self._keep(DeviceBuffer(self._cuda, array.nbytes))
        with PinnedArray(self._cuda, array.shape, array.dtype.type) as host:
            host.array[:] = array
            self._cuda.copy_in(buffer.handle, host.handle, host.nbytes, self._stream.handle)
            self.finish()
        return buffer

    def _output(self, name: str) -> tuple[DeviceBuffer, PinnedArray]:
        size = tuple(int(side) for side in self._context.get_tensor_shape(name))
        host = self._keep(PinnedArray(self._cuda, size, np.float32))
        return self._keep(DeviceBuffer(self._cuda, host.nbytes)), host

    def _read(self) -> dict[str, np.ndarray]:
        for buffer, host in self._outputs.values():
            self._cuda.copy_out(host.handle, buffer.handle, host.nbytes, self._stream.handle)
        self.finish()
        return {name: host.array.copy() for name, (_, host) in self._outputs.items()}


def events(stream: Stream) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """`mark` and `between` of `gpu_report.device_clock`, by CUDA events on a stream."""
    driver = importlib.import_module("cuda.bindings.driver")

    def call(name: str, *arguments: Any) -> Any:
        error, *results = getattr(driver, name)(*arguments)
        if int(error):
            raise BackendError(f"{name} failed: {error}", expected="success", cure="end this process")
        return results[0] if results else None

    def mark() -> Any:
        event = call("cuEventCreate", 0)
        call("cuEventRecord", event, stream.handle)
        return event

    def between(begin: Any, end: Any) -> float:
        milliseconds = call("cuEventElapsedTime", begin, end)
        call("cuEventDestroy", begin)
        call("cuEventDestroy", end)
        return float(milliseconds)

    return mark, between
