"""CUDA through the driver API of NVIDIA's cuda-bindings.

The runtime API in those bindings refuses drivers that are older than itself.  The driver API works with any
driver that has the functions called here; CUDA 11.4 had all of them.

Signatures are those of cuda-bindings 12.6 to 13.5.  Tested so far: 13.3 on an H200; a fake of the bindings;
cuda-bindings 12.8 to 13.5 and cuda-python 12.2 to 12.5 with a fake driver of CUDA 12.0.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from runtime.backends.cuda.base import Cuda, DeviceInfo, DriverInfo, dotted, no_driver
from runtime.errors import BackendError, BackendUnavailable, InputError

_MODULES = ("cuda.bindings.driver", "cuda.cuda")
"""The present name, and the name in cuda-python 12.0 to 12.5."""


def _driver(function: str) -> Any:
    """A method that calls this function of the driver with the arguments that it gets."""

    def method(self: CudaBindings, *arguments: int) -> None:
        self._call(function, *arguments)

    return method


class CudaBindings(Cuda):
    """See `runtime.backends.cuda.base.Cuda`.

    Raises:
        BackendUnavailable: cuda-bindings is not installed, or does not load.
    """

    no_graphs = ""
    free = _driver("cuMemFree")
    host_free = _driver("cuMemFreeHost")
    stream_destroy = _driver("cuStreamDestroy")
    synchronize = _driver("cuStreamSynchronize")
    copy_in = _driver("cuMemcpyHtoDAsync")
    copy_out = _driver("cuMemcpyDtoHAsync")
    copy = _driver("cuMemcpyDtoDAsync")
    fill = _driver("cuMemsetD8Async")
    event_record = _driver("cuEventRecord")
    event_synchronize = _driver("cuEventSynchronize")
    event_destroy = _driver("cuEventDestroy")
    graph_launch = _driver("cuGraphLaunch")
    graph_destroy = _driver("cuGraphExecDestroy")

    def __init__(self) -> None:
        self._cuda = cuda = _module()
        self.name = f"cuda-bindings for CUDA {dotted(cuda.CUDA_VERSION)}"
        self._contexts: dict[int, Any] = {}
        self._own = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        names = cuda.CUpointer_attribute
        self._of_pointers = [
            *(names.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, names.CU_POINTER_ATTRIBUTE_IS_MANAGED),
            *(names.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, names.CU_POINTER_ATTRIBUTE_CONTEXT),
        ]

    def driver(self) -> DriverInfo:
        try:
            (error,) = self._cuda.cuInit(0)
        except RuntimeError as absent:  # raised by the bindings where there is no libcuda
            raise no_driver(version="0.0", why=str(absent)) from absent
        version = dotted(self._call("cuDriverGetVersion"))
        if error:
            raise no_driver(version=version, why=self._words(error))
        devices = int(self._call("cuDeviceGetCount"))
        if not devices:
            raise no_driver(version=version, why="no device")
        return DriverInfo(cuda=version, devices=devices)

    def device(self, index: int) -> DeviceInfo:
        """Read the attributes of an existing GPU.  Raises `BackendError` if the driver refuses."""
        device = self._call("cuDeviceGet", index)
        names = self._cuda.CUdevice_attribute
        asked = (
            *(
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            ),
            *(names.CU_DEVICE_ATTRIBUTE_INTEGRATED, names.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY),
            names.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
        )
        major, minor, *facts = (int(self._call("cuDeviceGetAttribute", which, device)) for which in asked)
        integrated, can_map, pageable = map(bool, facts)
        return DeviceInfo(
            index=index,
            name=self._call("cuDeviceGetName", 256, device).split(b"\0")[0].decode(),
            compute_capability=f"{major}.{minor}",
            memory_bytes=int(self._call("cuDeviceTotalMem", device)),
            integrated=integrated,
            mapped_input=integrated and can_map and not pageable,
        )

    def current(self, index: int) -> AbstractContextManager[None]:
        # Push and pop restore the context of a host that uses PyCUDA.
        return _Current(self, index)

    def malloc(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def host_alloc(self, nbytes: int, *, mapped: bool) -> int:
        return int(
            self._call("cuMemHostAlloc", nbytes, self._cuda.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        )

    def mapped_pointer(self, pointer: int) -> int:
        return int(self._call("cuMemHostGetDevicePointer", pointer, 0))

    def stream_create(self) -> int:
        return int(self._call("cuStreamCreate", int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def event_create(self) -> int:
        return int(self._call("cuEventCreate", int(self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)))

    def event_done(self, event: int) -> bool:
        (error,) = self._cuda.cuEventQuery(event)
        if error and error != self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            raise self._failed("cuEventQuery", error)
        return not error

    def order(self, first: int, then: int, event: int) -> None:
        self._call("cuEventRecord", event, first)
        self._call("cuStreamWaitEvent", then, event, 0)

    def check_pointer(self, pointer: int, nbytes: int, index: int) -> None:
        """Ask the driver about an address.  Raises `InputError` unless GPU `index` can read it."""
        which = self._of_pointers
        error, found = self._cuda.cuPointerGetAttributes(len(which), which, pointer)
        kind, managed, device, owner = (0, False, 0, 0) if error else found
        if not managed and kind != self._cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE:
            raise InputError(
                f"address {pointer:#x} is not memory of a GPU",
                expected=f"an array on device {index}",
                cure="call the explainer itself for arrays of the host",
            )
        if not managed and device != index:
            raise InputError(
                f"an array on device {device}",
                expected=f"an array on device {index}, where the engine is",
                cure=f"open the Explainer with device={device}, or copy the array",
            )
        if int(owner) and int(owner) != int(self._primary(index)):
            raise InputError(
                "an array that belongs to another CUDA context of this device",
                expected="the primary context",
                cure="with PyCUDA, import pycuda.autoprimaryctx instead of pycuda.autoinit",
            )

    def is_capturing(self, stream: int) -> bool:
        error, status = self._cuda.cuStreamIsCapturing(stream)
        if error == self._cuda.CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
            return True  # the default stream, while a stream is captured that it would wait for
        if error:
            raise self._failed("cuStreamIsCapturing", error)
        return bool(status != self._cuda.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)

    def begin_capture(self, stream: int) -> None:
        # Other threads of the host application may allocate during it.
        self._call("cuStreamBeginCapture", stream, self._own)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def _primary(self, index: int) -> Any:
        """The primary context of a device, retained from its first use to the end of the process."""
        if index not in self._contexts:
            self._call("cuInit", 0)
            self._contexts[index] = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", index))
        return self._contexts[index]

    def _call(self, function: str, *arguments: Any) -> Any:
        answer = getattr(self._cuda, function)(*arguments)
        if answer[0]:
            raise self._failed(function, answer[0])
        return answer[-1]

    def _failed(self, function: str, error: Any) -> BackendError:
        return BackendError(
            f"{function} failed: {self._words(error)}",
            expected="success",
            cure="free GPU memory if it says so; otherwise end this process, then nemu doctor",
        )

    def _words(self, error: Any) -> str:
        """CUDA's name and message for an error code."""
        name, message = self._cuda.cuGetErrorName(error), self._cuda.cuGetErrorString(error)
        return f"{name[1].decode()}: {message[1].decode()}"


class _Current:
    """A context manager for one use: pushes a context and makes the capture mode thread-local; undoes both.

    In the default (global) mode, a call that allocates, frees or queries an event would fail while another
    thread of the host application captures in global mode, and would break that capture.
    """

    __slots__ = ("_before", "_call", "_cuda", "_index")

    def __init__(self, cuda: CudaBindings, index: int) -> None:
        self._cuda, self._call, self._index = cuda, cuda._call, index

    def __enter__(self) -> None:
        self._call("cuCtxPushCurrent", self._cuda._primary(self._index))
        self._before = self._call("cuThreadExchangeStreamCaptureMode", self._cuda._own)

    def __exit__(self, *_: object) -> None:
        try:
            self._call("cuThreadExchangeStreamCaptureMode", self._before)
        finally:
            self._call("cuCtxPopCurrent")


def _module() -> ModuleType:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "?"):
                continue  # no module of this name
            raise BackendUnavailable(
                f"{name} is installed but does not load: {error}",
                expected="a working cuda-bindings",
                cure='pip install --force-reinstall "cuda-bindings>=12.6"',
            ) from error
    raise BackendUnavailable(
        "neither cuda-bindings nor PyCUDA is installed",
        expected="cuda-bindings of CUDA 12 or 13",
        cure='pip install "cuda-bindings>=12.6"',
    )
