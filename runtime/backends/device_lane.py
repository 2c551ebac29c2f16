"""An execution context for images that are on the GPU already, and outputs that stay there."""

from __future__ import annotations

import weakref
from typing import Any

from runtime.backends.cuda import Cuda
from runtime.backends.cuda_memory import DeviceBuffer, Stream
from runtime.backends.device_array import Source, read
from runtime.backends.tensorrt_engine import INPUT, LoadedEngine
from runtime.device_explanation import DeviceArray
from runtime.errors import InputError


class DeviceLane:
    """Used by one thread at a time, inside `with cuda.current(index):`.

    Every run has the addresses of its own arrays, so that there is nothing that a CUDA graph could keep.

    Args:
        cuda: the library.
        engine: makes the context.
        index: number of the device.
        shape: of the images: (most rows, height, width, 3).
        least: fewest rows.
    """

    def __init__(
        self, cuda: Cuda, engine: LoadedEngine, *, index: int, shape: tuple[int, ...], least: int
    ) -> None:
        self._cuda, self._engine, self._index = cuda, engine, index
        self._shape, self._least = shape, least
        self._stream = Stream(cuda)
        self._context: Any = None
        try:
            self._context = engine.context()
        except BaseException:
            self.close()
            raise

    def run(self, array: Any, stream: int | None) -> tuple[DeviceArray, DeviceArray]:
        """Enqueue a run; the outputs are there in the order of the lane's stream, and of `stream`.

        Raises:
            InputError: an array that is not what the engine takes, or not on its device.
            BackendError: out of memory, or TensorRT failed.
        """
        ours = self._stream.handle
        source = read(array, ours)
        self._check(source)
        for theirs in {source.stream, stream} - {None}:
            self._cuda.order(theirs, ours)  # type: ignore[arg-type]
        must = self._engine.must
        must(self._context.set_input_shape(INPUT, source.shape), f"set_input_shape {source.shape}")
        must(self._context.set_tensor_address(INPUT, source.pointer), f"set_tensor_address {INPUT}")
        embedding, mask = (self._output(name, source) for name in self._engine.outputs)
        must(self._context.execute_async_v3(ours), "execute_async_v3")
        if stream is not None:
            self._cuda.order(ours, stream)
        return embedding, mask

    def synchronize(self) -> None:
        """Wait for every run so far."""
        if not self._stream.closed:
            self._cuda.synchronize(self._stream.handle)

    def close(self) -> None:
        """Wait for what is running, then release context and stream; outputs keep their memory."""
        try:
            self.synchronize()
        finally:
            self._context = None
            self._stream.close()

    def _check(self, source: Source) -> None:
        rows = source.shape[0] if len(source.shape) == 4 else 0
        if source.shape[1:] != self._shape[1:] or not self._least <= rows <= self._shape[0]:
            _, height, width, _ = self._shape
            raise InputError(
                f"an array {source.shape} on the device",
                expected=f"(N, {height}, {width}, 3), N from {self._least} to {self._shape[0]}",
                cure="resize on the GPU, or call the explainer itself, which resizes",
            )
        if source.device not in (None, self._index):
            raise InputError(
                f"an array on device {source.device}",
                expected=f"an array on device {self._index}, where the engine is",
                cure=f"open the Explainer with device={source.device}, or copy the array",
            )
        _, height, width, channels = source.shape
        self._cuda.check_pointer(source.pointer, rows * height * width * channels, self._index)

    def _output(self, name: str, source: Source) -> DeviceArray:
        """Memory of its own for one output, which the context then writes to."""
        shape = tuple(int(side) for side in self._context.get_tensor_shape(name))
        nbytes = 4
        for side in shape:
            nbytes *= side
        memory = DeviceBuffer(self._cuda, nbytes)
        array = DeviceArray(shape=shape, device=self._index, memory=memory, stream=self._stream)
        # With it goes the hold on the images; at the end of the process the driver gives everything back.
        keeper = weakref.finalize(array, _free, self._cuda, self._index, memory, self._stream, source)
        keeper.atexit = False
        self._engine.must(self._context.set_tensor_address(name, memory.handle), f"set_tensor_address {name}")
        return array


def _free(cuda: Cuda, index: int, memory: DeviceBuffer, stream: Stream, source: Source) -> None:
    """Give back an output whose array is gone, after the run that may still be writing to it."""
    with cuda.current(index):
        try:
            if not stream.closed:
                cuda.synchronize(stream.handle)
        finally:
            memory.close()
