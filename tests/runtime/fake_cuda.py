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


def device_attribute(driver, attribute, device):
    name = ENUMS["CUdevice_attribute"](attribute).name
    return driver._attributes.get(name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0)


def host_alloc(driver, nbytes, flags):
    assert flags in (0, driver.CU_MEMHOSTALLOC_DEVICEMAP)
    return driver._gpu.allocate(nbytes, "host")


def mapped_pointer(driver, pointer, flags):
    assert driver._gpu.find(pointer).kind == "host"
    return pointer


def pointer_attributes(driver, count, attributes, pointer):
    block = driver._gpu.find(pointer)
    values = {
        "MEMORY_TYPE": ENUMS["CUmemorytype"][f"CU_MEMORYTYPE_{block.kind.upper()}"] if block else 0,
        "IS_MANAGED": False,
        "DEVICE_ORDINAL": driver._gpu.fail.get("device", 0) if block else -2,
        "CONTEXT": block.context if block else 0,
    }
    assert count == len(attributes)
    names = [ENUMS["CUpointer_attribute"](attribute).name for attribute in attributes]
    return [values[name.removeprefix("CU_POINTER_ATTRIBUTE_")] for name in names]


def stream_create(driver, flags):
    assert flags == ENUMS["CUstream_flags"].CU_STREAM_NON_BLOCKING
    return driver._gpu.stream_create()


def event_create(driver, flags):
    assert flags == ENUMS["CUevent_flags"].CU_EVENT_DISABLE_TIMING
    return driver._gpu.mark_create()


def exchange_mode(driver, mode):
    modes = ENUMS["CUstreamCaptureMode"]
    return modes[driver._gpu.exchange_mode(modes(mode).name)]


def begin_capture(driver, stream, mode):
    name = ENUMS["CUstreamCaptureMode"](mode).name
    driver._gpu.rule("thread local", "THREAD_LOCAL" in name)
    driver._gpu.begin(stream, name)


def end_capture(driver, stream):
    driver._templates[graph := driver._gpu.end(stream)] = False
    return graph


def instantiate(driver, graph, flags):
    assert driver._templates[graph] is False
    driver._templates[graph] = True
    return graph


def destroy_template(driver, graph):
    if not driver._templates.pop(graph):
        driver._gpu.graph_destroy(graph)


CALLS: dict[str, tuple[str, Callable]] = {
    "cuInit": ("u", lambda d, flags: None),
    "cuDriverGetVersion": ("*i", lambda d: 13020),
    "cuGetErrorName": ("i *s", lambda d, error: f"CUDA_ERROR_{int(error)}".encode()),
    "cuGetErrorString": ("i *s", lambda d, error: b"as the test wanted"),
    "cuDeviceGetCount": ("*i", lambda d: 1),
    "cuDeviceGet": ("*i i", lambda d, ordinal: ordinal),
    "cuDeviceGetName": ("*c i i", lambda d, length, device: b"Fake GPU".ljust(length, b"\0")),
    "cuDeviceGetAttribute": ("*i i i", device_attribute),
    "cuDeviceTotalMem": ("*l i", lambda d, device: 1 << 34),
    "cuDevicePrimaryCtxRetain": ("*l i", lambda d, device: 0xC0 + device),
    "cuCtxPushCurrent": ("l", lambda d, context: d._gpu.stack().append(context)),
    "cuCtxPopCurrent": ("*l", lambda d: d._gpu.pop()),
    "cuMemAlloc": ("*l l", lambda d, nbytes: d._gpu.allocate(nbytes, "device")),
    "cuMemFree": ("l", lambda d, pointer: d._gpu.release(pointer, "memory")),
    "cuMemHostAlloc": ("*l l u", host_alloc),
    "cuMemFreeHost": ("l", lambda d, pointer: d._gpu.release(pointer, "host memory")),
    "cuMemHostGetDevicePointer": ("*l l u", mapped_pointer),
    "cuPointerGetAttributes": ("u p *p l", pointer_attributes),
    "cuStreamCreate": ("*l u", stream_create),
    "cuStreamDestroy": ("l", lambda d, stream: d._gpu.stream_destroy(stream)),
    "cuStreamSynchronize": ("l", lambda d, stream: d._gpu.synchronize(stream)),
    "cuMemsetD8Async": ("l b l l", lambda d, *memory: d._gpu.fill(*memory)),
    "cuMemcpyHtoDAsync": ("l l l l", lambda d, to, by, n, stream: d._gpu.copy(to, by, n, by, to, stream)),
    "cuMemcpyDtoHAsync": ("l l l l", lambda d, to, by, n, stream: d._gpu.copy(to, by, n, to, by, stream)),
    "cuMemcpyDtoDAsync": ("l l l l", lambda d, *memory: d._gpu.copy_within(*memory)),
    "cuEventCreate": ("*l u", event_create),
    "cuEventRecord": ("l l", lambda d, event, stream: d._gpu.mark(event, stream)),
    "cuEventQuery": ("l", lambda d, event: (0 if d._gpu.mark_done(event) else d.CUresult(600),)),
    "cuEventSynchronize": ("l", lambda d, event: d._gpu.mark_wait(event)),
    "cuStreamWaitEvent": ("l l u", lambda d, stream, event, flags: d._gpu.wait(stream, event)),
    "cuEventDestroy": ("l", lambda d, event: d._gpu.marks.pop(event)),
    "cuStreamIsCapturing": ("l *i", lambda d, stream: d.CUstreamCaptureStatus(d._gpu.is_recording(stream))),
    "cuThreadExchangeStreamCaptureMode": ("&i", exchange_mode),
    "cuStreamBeginCapture": ("l i", begin_capture),
    "cuStreamEndCapture": ("l *l", end_capture),
    "cuGraphInstantiate": ("*l l l", instantiate),
    "cuGraphDestroy": ("l", destroy_template),
    "cuGraphLaunch": ("l l", lambda d, graph, stream: d._gpu.launch(graph, stream)),
    "cuGraphExecDestroy": ("l", lambda d, graph: d._gpu.graph_destroy(graph)),
}
"""The types of a call's arguments in C, and what it does.

They are b: unsigned char, c: characters, i: int, l: eight bytes, p: an address, s: a text, u: unsigned int.
`*`: what the call gives; `&`: what it takes and gives.
"""
