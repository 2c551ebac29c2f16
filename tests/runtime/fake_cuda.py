"""A fake of `cuda.bindings.driver`, on a `Gpu`.

A test compares its names, and the values of its enums, with the real module.
"""

from __future__ import annotations

import enum

from tests.runtime.fake_gpu import Gpu


class FakeDriver:
    """`cuda.bindings.driver`.  Attributes of the device, e.g. `INTEGRATED=1`, may be given."""

    CUDA_VERSION = 13050
    CU_MEMHOSTALLOC_DEVICEMAP = 2
    CUresult = enum.IntEnum(
        "CUresult", {"CUDA_ERROR_NOT_READY": 600, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT": 906}
    )
    CUstream_flags = enum.IntEnum("CUstream_flags", {"CU_STREAM_NON_BLOCKING": 1})
    CUevent_flags = enum.IntEnum("CUevent_flags", {"CU_EVENT_DISABLE_TIMING": 2})
    CUmemorytype = enum.IntEnum("CUmemorytype", {"CU_MEMORYTYPE_HOST": 1, "CU_MEMORYTYPE_DEVICE": 2})
    CUdevice_attribute = enum.IntEnum(
        "CUdevice_attribute",
        {
            "CU_DEVICE_ATTRIBUTE_INTEGRATED": 18,
            "CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY": 19,
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
            "CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS": 88,
        },
    )
    CUpointer_attribute = enum.IntEnum(
        "CUpointer_attribute",
        {
            "CU_POINTER_ATTRIBUTE_CONTEXT": 1,
            "CU_POINTER_ATTRIBUTE_MEMORY_TYPE": 2,
            "CU_POINTER_ATTRIBUTE_IS_MANAGED": 8,
            "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL": 9,
        },
    )
    CUstreamCaptureMode = enum.IntEnum(
        "CUstreamCaptureMode",
        {
            "CU_STREAM_CAPTURE_MODE_GLOBAL": 0,
            "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
            "CU_STREAM_CAPTURE_MODE_RELAXED": 2,
        },
    )

    CUstreamCaptureStatus = enum.IntEnum(
        "CUstreamCaptureStatus", {"CU_STREAM_CAPTURE_STATUS_NONE": 0, "CU_STREAM_CAPTURE_STATUS_ACTIVE": 1}
    )

    def __init__(self, gpu: Gpu, **attributes: int) -> None:
        self._gpu = gpu
        self._templates: dict[int, bool] = {}  # whether it was instantiated
        ours = {"COMPUTE_CAPABILITY_MAJOR": 8, "COMPUTE_CAPABILITY_MINOR": 9, "CAN_MAP_HOST_MEMORY": 1}
        self._attributes = {**ours, **attributes}

    def __getattribute__(self, name: str):
        """A call in `gpu.fail` returns its error code, with as many results as the real call."""
        value = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(value) or isinstance(value, type):
            return value

        def call(*arguments):
            if name not in self._gpu.fail:
                return value(*arguments)
            if name == "cuStreamEndCapture":
                self._gpu.graph_destroy(self._gpu.end(*arguments))
            error = self._gpu.fail[name]
            return (error,) if name in _NO_RESULT else (error, None)

        return call

    def cuInit(self, flags):
        return (0,)

    def cuDriverGetVersion(self):
        return 0, 13020

    def cuGetErrorName(self, error):
        return 0, f"CUDA_ERROR_{int(error)}".encode()

    def cuGetErrorString(self, error):
        return 0, b"as the test wanted"

    def cuDeviceGetCount(self):
        return 0, 1

    def cuDeviceGet(self, ordinal):
        return 0, ordinal

    def cuDeviceGetName(self, length, device):
        return 0, b"Fake GPU".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute, device):
        return 0, self._attributes.get(attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0)

    def cuDeviceTotalMem(self, device):
        return 0, 1 << 34

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, 0xC0 + device

    def cuCtxPushCurrent(self, context):
        self._gpu.stack().append(context)
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, self._gpu.pop()

    def cuMemAlloc(self, nbytes):
        return 0, self._gpu.allocate(nbytes, "device")

    def cuMemHostAlloc(self, nbytes, flags):
        return 0, self._gpu.allocate(nbytes, "host")

    def cuMemFree(self, pointer):
        return self._done(self._gpu.release(pointer, "memory"))

    def cuMemFreeHost(self, pointer):
        return self._done(self._gpu.release(pointer, "host memory"))

    def cuMemHostGetDevicePointer(self, pointer, flags):
        assert self._gpu.find(pointer).kind == "host"
        return 0, pointer

    def cuPointerGetAttributes(self, count, attributes, pointer):
        block, kinds = self._gpu.find(pointer), self.CUmemorytype
        kind = {"device": kinds.CU_MEMORYTYPE_DEVICE, "host": kinds.CU_MEMORYTYPE_HOST}
        values = {
            "MEMORY_TYPE": kind[block.kind] if block else 0,
            "IS_MANAGED": False,
            "DEVICE_ORDINAL": self._gpu.fail.get("device", 0) if block else -2,
            "CONTEXT": block.context if block else 0,
        }
        assert count == len(attributes)
        return 0, [values[name.name.removeprefix("CU_POINTER_ATTRIBUTE_")] for name in attributes]

    def cuStreamCreate(self, flags):
        assert flags == self.CUstream_flags.CU_STREAM_NON_BLOCKING
        return 0, self._gpu.stream_create()

    def cuStreamDestroy(self, stream):
        return self._done(self._gpu.stream_destroy(stream))

    def cuStreamSynchronize(self, stream):
        return self._done(self._gpu.synchronize(stream))

    def cuMemsetD8Async(self, pointer, value, nbytes, stream):
        return self._done(self._gpu.fill(pointer, value, nbytes, stream))

    def cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        return self._done(self._gpu.copy(target, source, nbytes, source, target, stream))

    def cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        return self._done(self._gpu.copy(target, source, nbytes, target, source, stream))

    def cuMemcpyDtoDAsync(self, target, source, nbytes, stream):
        return self._done(self._gpu.copy_within(target, source, nbytes, stream))

    def cuEventCreate(self, flags):
        assert flags == self.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return 0, self._gpu.mark_create()

    def cuEventRecord(self, event, stream):
        return self._done(self._gpu.mark(event, stream))

    def cuEventQuery(self, event):
        return (0 if self._gpu.mark_done(event) else self.CUresult.CUDA_ERROR_NOT_READY,)

    def cuEventSynchronize(self, event):
        return self._done(self._gpu.mark_wait(event))

    def cuStreamWaitEvent(self, stream, event, flags):
        return self._done(self._gpu.wait(stream, event))

    def cuEventDestroy(self, event):
        del self._gpu.marks[event]
        return (0,)

    def cuStreamIsCapturing(self, stream):
        return 0, self.CUstreamCaptureStatus(self._gpu.is_recording(stream))

    def cuThreadExchangeStreamCaptureMode(self, mode):
        return 0, self.CUstreamCaptureMode[self._gpu.exchange_mode(mode.name)]

    def cuStreamBeginCapture(self, stream, mode):
        self._gpu.rule("thread local", "THREAD_LOCAL" in mode.name)
        return self._done(self._gpu.begin(stream, mode.name))

    def cuStreamEndCapture(self, stream):
        self._templates[graph := self._gpu.end(stream)] = False
        return 0, graph

    def cuGraphInstantiate(self, graph, flags):
        assert self._templates[graph] is False
        self._templates[graph] = True
        return 0, graph

    def cuGraphDestroy(self, graph):
        if not self._templates.pop(graph):
            self._gpu.graph_destroy(graph)
        return (0,)

    def cuGraphLaunch(self, graph, stream):
        return self._done(self._gpu.launch(graph, stream))

    def cuGraphExecDestroy(self, graph):
        return self._done(self._gpu.graph_destroy(graph))

    def _done(self, nothing: None) -> tuple[int]:
        return (0,)


_NO_RESULT = {
    *("cuInit", "cuCtxPushCurrent", "cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuStreamSynchronize"),
    *("cuMemsetD8Async", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync", "cuEventRecord"),
    *(
        "cuEventQuery",
        "cuEventSynchronize",
        "cuStreamWaitEvent",
        "cuEventDestroy",
        "cuStreamBeginCapture",
        "cuGraphLaunch",
    ),
    *("cuGraphDestroy", "cuGraphExecDestroy"),
}
