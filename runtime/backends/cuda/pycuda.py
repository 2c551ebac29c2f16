"""CUDA through PyCUDA, for JetPack images that contain it and for host applications that already use it.

The primary context is retained once, and pushed and popped around every use: PyCUDA frees a context's objects
only while that context is current, and aborts the process if a thread ends with a context still pushed.
PyCUDA has no CUDA graphs.  Written for PyCUDA 2021.1 to 2026.1; tested so far with a fake only.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime.backends.cuda.base import Cuda, DeviceInfo, DriverInfo, dotted, no_driver
from runtime.errors import BackendError, BackendUnavailable, InputError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; PyCUDA has no name for it
_DEFAULT_STREAM = (0, 1)


class PyCuda(Cuda):
    """See `runtime.backends.cuda.base.Cuda`.

    Raises:
        BackendUnavailable: PyCUDA is not installed, or does not load (it needs the driver for that).
    """

    no_graphs = "PyCUDA has none: pip install cuda-bindings"

    def __init__(self) -> None:
        try:
            self._cuda = importlib.import_module("pycuda.driver")
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == "pycuda"
            raise BackendUnavailable(
                "PyCUDA is not installed" if absent else f"PyCUDA is installed but does not load: {error}",
                expected="PyCUDA, and an NVIDIA driver",
                cure='pip install "cuda-bindings>=12.6", or pycuda where there is a CUDA toolkit',
            ) from error
        self.name = "PyCUDA " + ".".join(map(str, importlib.import_module("pycuda").VERSION))
        self._contexts: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        self._events: dict[int, Any] = {}

    def driver(self) -> DriverInfo:
        version = dotted(self._cuda.get_driver_version())
        try:
            self._cuda.init()
            count = self._cuda.Device.count()
        except self._cuda.Error as error:
            raise no_driver(version=version, why=str(error)) from error
        if not count:
            raise no_driver(version=version, why="no device")
        return DriverInfo(cuda=version, devices=count)

    def device(self, index: int) -> DeviceInfo:
        """Read the attributes of an existing GPU.  Raises `BackendError` if the driver refuses."""
        device, attribute = self._call(self._cuda.Device, index), self._cuda.device_attribute
        integrated, can_map = (
            bool(device.get_attribute(which))
            for which in (attribute.INTEGRATED, attribute.CAN_MAP_HOST_MEMORY)
        )
        pageable = getattr(attribute, "PAGEABLE_MEMORY_ACCESS", None)  # PyCUDA 2021 lacks this name
        copies = pageable is None or bool(device.get_attribute(pageable))
        return DeviceInfo(
            index=index,
            name=device.name(),
            compute_capability="{}.{}".format(*device.compute_capability()),
            memory_bytes=int(device.total_memory()),
            integrated=integrated,
            mapped_input=integrated and can_map and not copies,
        )

    @contextmanager
    def current(self, index: int) -> Iterator[None]:
        if index not in self._contexts:
            self._contexts[index] = self._call(self._call(self._cuda.Device, index).retain_primary_context)
        self._contexts[index].push()
        try:
            yield
        finally:
            self._contexts[index].pop()

    def malloc(self, nbytes: int) -> int:
        memory = self._call(self._cuda.mem_alloc, nbytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, pointer: int) -> None:
        self._call(self._memory.pop(pointer).free)

    def host_alloc(self, nbytes: int, *, mapped: bool) -> int:
        flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._call(self._cuda.pagelocked_empty, nbytes, "uint8", mem_flags=flags)
        pointer = int(array.ctypes.data)
        self._memory[pointer] = array.base
        return pointer

    def host_free(self, pointer: int) -> None:
        self._call(self._memory.pop(pointer).free)

    def mapped_pointer(self, pointer: int) -> int:
        return int(self._call(self._memory[pointer].get_device_pointer))

    def stream_create(self) -> int:
        stream = self._call(self._cuda.Stream, _NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def stream_destroy(self, stream: int) -> None:
        # PyCUDA destroys it with its object.
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        self._call(self._streams[stream].synchronize)

    def copy_in(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call(self._cuda.memcpy_htod_async, target, _buffer(source, nbytes), self._streams[stream])

    def copy_out(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call(self._cuda.memcpy_dtoh_async, _buffer(target, nbytes), source, self._streams[stream])

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call(self._cuda.memcpy_dtod_async, target, source, nbytes, self._streams[stream])

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        self._call(self._cuda.memset_d8_async, pointer, byte, nbytes, self._streams[stream])

    def event_create(self) -> int:
        # PyCUDA does not expose the driver's handle.
        event = self._call(self._cuda.Event, self._cuda.event_flags.DISABLE_TIMING)
        self._events[id(event)] = event
        return id(event)

    def event_record(self, event: int, stream: int) -> None:
        # The host waits if PyCUDA did not create the stream.
        if stream not in self._streams and stream not in _DEFAULT_STREAM:
            self._call(self._cuda.Context.synchronize)
        self._call(self._events[event].record, self._streams.get(stream))

    def event_done(self, event: int) -> bool:
        return bool(self._call(self._events[event].query))

    def event_synchronize(self, event: int) -> None:
        self._call(self._events[event].synchronize)

    def event_destroy(self, event: int) -> None:
        # PyCUDA destroys it with its object.
        del self._events[event]

    def order(self, first: int, then: int, event: int) -> None:
        # The host waits if PyCUDA did not create the stream `then`.
        self.event_record(event, first)
        if then in self._streams:
            self._call(self._streams[then].wait_for_event, self._events[event])
        else:
            self.event_synchronize(event)

    def check_pointer(self, pointer: int, nbytes: int, index: int) -> None:
        try:
            start, size = (int(number) for number in self._cuda.mem_get_address_range(pointer))
        except self._cuda.Error as error:
            raise _foreign(f"address {pointer:#x} ({error})", index) from error
        if pointer + nbytes > start + size:
            left = start + size - pointer
            raise _foreign(f"{nbytes} bytes at {pointer:#x}, where {left} are allocated", index)

    def is_capturing(self, stream: int) -> bool:
        # PyCUDA has no such call: always False.
        return False

    def begin_capture(self, stream: int) -> None:
        """Always raises `BackendError`, as the three methods below do: see `no_graphs`."""
        raise BackendError("a CUDA graph was requested", expected="plain enqueues", cure=self.no_graphs)

    def end_capture(self, stream: int) -> int:
        raise BackendError("a CUDA graph was requested", expected="plain enqueues", cure=self.no_graphs)

    def graph_launch(self, graph: int, stream: int) -> None:
        self.begin_capture(stream)

    def graph_destroy(self, graph: int) -> None:
        self.begin_capture(0)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._cuda.Error as error:
            raise BackendError(
                f"PyCUDA: {error}",
                expected="success",
                cure="free GPU memory if it says so; else end this process, then nemu doctor",
            ) from error


def _buffer(pointer: int, nbytes: int) -> Any:
    return (ctypes.c_uint8 * nbytes).from_address(pointer)


def _foreign(came: str, index: int) -> InputError:
    return InputError(
        came,
        expected=f"memory of device {index}, in its primary context",
        cure="import pycuda.autoprimaryctx instead of pycuda.autoinit, and use the engine's device",
    )
