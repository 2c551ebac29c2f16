"""A fake of `cuda.bindings.driver`, on a `Gpu`.

A test compares its names, and the values of its enums, with the real module; `test_cuda_driver.py` puts its
calls below the real module.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from tests.runtime.fake_gpu import Gpu

ENUMS = {
    name: enum.IntEnum(name, {prefix + member: value for member, value in members.items()})
    for name, prefix, members in (
        ("CUresult", "CUDA_ERROR_", {"NOT_READY": 600, "STREAM_CAPTURE_IMPLICIT": 906}),
        ("CUstream_flags", "CU_STREAM_", {"NON_BLOCKING": 1}),
        ("CUevent_flags", "CU_EVENT_", {"DISABLE_TIMING": 2}),
        ("CUmemorytype", "CU_MEMORYTYPE_", {"HOST": 1, "DEVICE": 2}),
        (
            "CUdevice_attribute",
            "CU_DEVICE_ATTRIBUTE_",
            {
                "INTEGRATED": 18,
                "CAN_MAP_HOST_MEMORY": 19,
                "PAGEABLE_MEMORY_ACCESS": 88,
                "COMPUTE_CAPABILITY_MAJOR": 75,
                "COMPUTE_CAPABILITY_MINOR": 76,
            },
        ),
        (
            "CUpointer_attribute",
            "CU_POINTER_ATTRIBUTE_",
            {"CONTEXT": 1, "MEMORY_TYPE": 2, "IS_MANAGED": 8, "DEVICE_ORDINAL": 9},
        ),
        ("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_", {"GLOBAL": 0, "THREAD_LOCAL": 1, "RELAXED": 2}),
        ("CUstreamCaptureStatus", "CU_STREAM_CAPTURE_STATUS_", {"NONE": 0, "ACTIVE": 1}),
    )
}


class FakeDriver:
    """`cuda.bindings.driver`.  Attributes of the device, e.g. `INTEGRATED=1`, may be given."""

    CUDA_VERSION = 13050
    CU_MEMHOSTALLOC_DEVICEMAP = 2

    def __init__(self, gpu: Gpu, **attributes: int) -> None:
        self._gpu = gpu
        self._templates: dict[int, bool] = {}  # whether it was instantiated
        self._mapped: set[int] = set()
        ours = {"COMPUTE_CAPABILITY_MAJOR": 8, "COMPUTE_CAPABILITY_MINOR": 9, "CAN_MAP_HOST_MEMORY": 1}
        self._attributes = {**ours, **attributes}

    def __dir__(self):
        return [*ENUMS, *CALLS]

    def __getattr__(self, name: str):
        """A call in `gpu.fail` returns its error code, with as many results as the real call."""
        if name in ENUMS:
            return ENUMS[name]
        if name not in CALLS:
            raise AttributeError(name)
        signature, does = CALLS[name]
        gives = "*" in signature or "&" in signature

        def call(*arguments):
            if name not in self._gpu.fail:
                answer = does(self, *arguments)
                return answer if isinstance(answer, tuple) else (0, answer) if gives else (0,)
            if name == "cuStreamEndCapture":
                self._gpu.graph_destroy(self._gpu.end(*arguments))
            error = self._gpu.fail[name]
            return (error, None) if gives else (error,)

        return call


def device_attribute(driver, attrib, dev):
    name = ENUMS["CUdevice_attribute"](attrib).name
    return driver._attributes.get(name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0)


def host_alloc(driver, bytesize, Flags):
    assert Flags in (0, driver.CU_MEMHOSTALLOC_DEVICEMAP)
    p = driver._gpu.allocate(bytesize, "host")
    (driver._mapped.add if Flags else driver._mapped.discard)(p)
    return p


def mapped_pointer(driver, p, Flags):
    assert driver._gpu.find(p).kind == "host"
    assert (p in driver._mapped, Flags) == (True, 0)
    return p


def pointer_attributes(driver, numAttributes, attributes, ptr):
    block = driver._gpu.find(ptr)
    values = {
        "MEMORY_TYPE": ENUMS["CUmemorytype"][f"CU_MEMORYTYPE_{block.kind.upper()}"] if block else 0,
        "IS_MANAGED": False,
        "DEVICE_ORDINAL": driver._gpu.fail.get("device", 0) if block else -2,
        "CONTEXT": block.context if block else 0,
    }
    assert numAttributes == len(attributes)
    names = [ENUMS["CUpointer_attribute"](attribute).name for attribute in attributes]
    return [values[name.removeprefix("CU_POINTER_ATTRIBUTE_")] for name in names]


def copy_in(driver, dstDevice, srcHost, ByteCount, hStream):
    driver._gpu.copy(dstDevice, srcHost, ByteCount, srcHost, dstDevice, hStream)


def copy_out(driver, dstHost, srcDevice, ByteCount, hStream):
    driver._gpu.copy(dstHost, srcDevice, ByteCount, dstHost, srcDevice, hStream)


def copy(driver, dstDevice, srcDevice, ByteCount, hStream):
    driver._gpu.copy_within(dstDevice, srcDevice, ByteCount, hStream)


def stream_create(driver, Flags):
    assert Flags == ENUMS["CUstream_flags"].CU_STREAM_NON_BLOCKING
    return driver._gpu.stream_create()


def event_create(driver, Flags):
    assert Flags == ENUMS["CUevent_flags"].CU_EVENT_DISABLE_TIMING
    return driver._gpu.mark_create()


def exchange_mode(driver, mode):
    modes = ENUMS["CUstreamCaptureMode"]
    return modes[driver._gpu.exchange_mode(modes(mode).name)]


def initialise(driver, Flags):
    assert Flags == 0


def wait(driver, hStream, hEvent, Flags):
    assert Flags == 0
    driver._gpu.wait(hStream, hEvent)


def begin_capture(driver, hStream, mode):
    name = ENUMS["CUstreamCaptureMode"](mode).name
    driver._gpu.rule("thread local", "THREAD_LOCAL" in name)
    driver._gpu.begin(hStream, name)


def end_capture(driver, hStream):
    driver._templates[graph := driver._gpu.end(hStream)] = False
    return graph


def instantiate(driver, hGraph, flags):
    assert (driver._templates[hGraph], flags) == (False, 0)
    driver._templates[hGraph] = True
    return hGraph


def destroy_template(driver, hGraph):
    if not driver._templates.pop(hGraph):
        driver._gpu.graph_destroy(hGraph)


CALLS: dict[str, tuple[str, Callable]] = {
    "cuInit": ("u", initialise),
    "cuDriverGetVersion": ("*i", lambda d: 13020),
    "cuGetErrorName": ("i *s", lambda d, error: f"CUDA_ERROR_{int(error)}".encode()),
    "cuGetErrorString": ("i *s", lambda d, error: b"as the test wanted"),
    "cuDeviceGetCount": ("*i", lambda d: 1),
    "cuDeviceGet": ("*i i", lambda d, ordinal: ordinal),
    "cuDeviceGetName": ("*c i i", lambda d, length, dev: b"Fake GPU".ljust(length, b"\0")),
    "cuDeviceGetAttribute": ("*i i i", device_attribute),
    "cuDeviceTotalMem": ("*l i", lambda d, dev: 1 << 34),
    "cuDevicePrimaryCtxRetain": ("*l i", lambda d, dev: 0xC0 + dev),
    "cuCtxPushCurrent": ("l", lambda d, ctx: d._gpu.stack().append(ctx)),
    "cuCtxPopCurrent": ("*l", lambda d: d._gpu.pop()),
    "cuMemAlloc": ("*l l", lambda d, bytesize: d._gpu.allocate(bytesize, "device")),
    "cuMemFree": ("l", lambda d, dptr: d._gpu.release(dptr, "memory")),
    "cuMemHostAlloc": ("*l l u", host_alloc),
    "cuMemFreeHost": ("l", lambda d, p: d._gpu.release(p, "host memory")),
    "cuMemHostGetDevicePointer": ("*l l u", mapped_pointer),
    "cuPointerGetAttributes": ("u p *p l", pointer_attributes),
    "cuStreamCreate": ("*l u", stream_create),
    "cuStreamDestroy": ("l", lambda d, hStream: d._gpu.stream_destroy(hStream)),
    "cuStreamSynchronize": ("l", lambda d, hStream: d._gpu.synchronize(hStream)),
    "cuMemsetD8Async": (
        "l b l l",
        lambda d, dstDevice, uc, N, hStream: d._gpu.fill(dstDevice, uc, N, hStream),
    ),
    "cuMemcpyHtoDAsync": ("l l l l", copy_in),
    "cuMemcpyDtoHAsync": ("l l l l", copy_out),
    "cuMemcpyDtoDAsync": ("l l l l", copy),
    "cuEventCreate": ("*l u", event_create),
    "cuEventRecord": ("l l", lambda d, hEvent, hStream: d._gpu.mark(hEvent, hStream)),
    "cuEventQuery": ("l", lambda d, hEvent: (0 if d._gpu.mark_done(hEvent) else d.CUresult(600),)),
    "cuEventSynchronize": ("l", lambda d, hEvent: d._gpu.mark_wait(hEvent)),
    "cuStreamWaitEvent": ("l l u", wait),
    "cuEventDestroy": ("l", lambda d, hEvent: d._gpu.marks.pop(hEvent)),
    "cuStreamIsCapturing": ("l *i", lambda d, hStream: d.CUstreamCaptureStatus(d._gpu.is_recording(hStream))),
    "cuThreadExchangeStreamCaptureMode": ("&i", exchange_mode),
    "cuStreamBeginCapture": ("l i", begin_capture),
    "cuStreamEndCapture": ("l *l", end_capture),
    "cuGraphInstantiate": ("*l l l", instantiate),
    "cuGraphDestroy": ("l", destroy_template),
    "cuGraphLaunch": ("l l", lambda d, hGraphExec, hStream: d._gpu.launch(hGraphExec, hStream)),
    "cuGraphExecDestroy": ("l", lambda d, hGraphExec: d._gpu.graph_destroy(hGraphExec)),
}
"""The types of a call's arguments in C, and what it does, with the names of arguments in cuda-bindings.

They are b: unsigned char, c: characters, i: int, l: eight bytes, p: an address, s: a text, u: unsigned int.
`*`: what the call gives; `&`: what it takes and gives.
"""
