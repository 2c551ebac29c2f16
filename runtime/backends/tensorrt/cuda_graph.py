"""A lane that captures its run as a CUDA graph and replays it with one call.

The graph of a lane for the host has everything between the pinned arrays.  The graph of a lane on the device
only computes: a graph keeps its addresses, and each caller's array has another address.  A graph is for one
batch size, and its context does nothing else.
"""

from __future__ import annotations

import numpy as np

from runtime.backends.cuda.memory import Graph
from runtime.backends.tensorrt.lane import Lane
from runtime.errors import BackendError


class GraphLane(Lane):
    """See `Lane`.  The graph is for exactly the largest batch; `no_graph` says why there is none.

    It is captured before the lane uses the stream that it was given: others may use that stream at any time.
    """

    def _prepare(self) -> None:
        """Run once, capture a graph and compare its replay with the plain run; sets `no_graph` on failure."""
        if self._cuda.no_graphs:
            self.no_graph = self._cuda.no_graphs
            super()._prepare()
            return
        if not self._from_host:
            self._pin(mapped=False)  # for the comparison
        self._make_up_inputs()
        expected = self._plain_run()  # kernels must load before a capture
        self.no_graph = self._try_graph(expected)
        if self.no_graph:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._plain_run()  # raises now if the attempt broke something
        if not self._from_host:
            self._given, self._results = [], []  # drop views before their memory
            while self._hosts:
                self._hosts.pop().close()

    def _make_up_inputs(self) -> None:
        """Fill the inputs with all colours, and with targets other than zero, for the comparison."""
        for array in self._given:
            values = np.resize(np.arange(251, dtype=np.uint8), array.shape)
            array[:] = values if array.dtype == np.uint8 else values / np.float32(251)

    def _plain_run(self) -> list[np.ndarray]:
        self._enqueue(self._most)
        self._cuda.synchronize(self._stream.handle)
        return [array.copy() for array in self._results]

    def _try_graph(self, expected: list[np.ndarray]) -> str:
        """Capture a graph and replay it; returns why it cannot be used, or an empty string."""
        ask = getattr(self._context, "is_stream_capturable", None)  # only TensorRT-RTX has it
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
        """Let TensorRT-RTX capture graphs by itself; returns what `no_graph` says about that."""
        refused = f"TensorRT-RTX says that this engine cannot be recorded{self._engine.cannot_record}"
        if not self._engine.records_itself:
            if not self._engine.record_itself(True):
                return refused
            self._renew()
        for _ in range(2):  # it captures in the first run and replays in the second
            self.poison()
            outputs = self._plain_run()
        if _same(outputs, expected):
            return f"{refused}; TensorRT-RTX records what it launches by itself instead"
        self._engine.record_itself(False)
        self._renew()
        return f"{refused}, and what it records by itself did not give what a plain run gives"


def _same(outputs: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether outputs agree: two runs of the same kernels differ by far less, stale outputs by far more."""
    return all(
        np.allclose(one, plain, rtol=0, atol=1e-2 * float(np.abs(plain).max()))
        for one, plain in zip(outputs, expected, strict=True)
    )
