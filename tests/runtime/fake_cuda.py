"""Stand-ins for `cuda.bindings.runtime` and `cuda.bindings.driver`, over a `Gpu`.

A test compares their names with the real modules.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace

from fake_gpu import Gpu


class FakeRuntime:
    """`cuda.bindings.runtime`."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaHostAllocMapped = 2
    cudaEventDisableTiming = 2
    cudaEventWaitDefault = 0
    cudaError_t = enum.IntEnum("cudaError_t", {"cudaErrorNotReady": 600})
    cudaMemcpyKind = enum.IntEnum(
        "cudaMemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"]
    )
    cudaMemoryType = enum.IntEnum(
        "cudaMemoryType",
        ["cudaMemoryTypeUnregistered", "cudaMemoryTypeHost", "cudaMemoryTypeDevice", "cudaMemoryTypeManaged"],
        start=0,
    )
    cudaStreamCaptureMode = enum.IntEnum(
        "cudaStreamCaptureMode", ["cudaStreamCaptureModeGlobal", "cudaStreamCaptureModeThreadLocal"], start=0
    )

    def __init__(self, gpu: Gpu, **properties: int) -> None:
        self._gpu = gpu
        self._templates: dict[int, bool] = {}  # whether it was instantiated
        self._properties = {"integrated": 0, "canMapHostMemory": 1, "pageableMemoryAccess": 0, **properties}

    def __getattribute__(self, name: str):
        """A call that is to fail gives its error code, and as many results as the real one gives."""
        value = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(value) or isinstance(value, type):
            return value

        def call(*arguments):
            if name not in self._gpu.fail:
                return value(*arguments)
            if name == "cudaStreamEndCapture":
                self._gpu.graph_destroy(self._gpu.end(*arguments))
            error = self._gpu.fail[name]
            return (error,) if name in _NO_RESULT else (error, None)

        return call

    def cudaDriverGetVersion(self):
        return 0, 13020

    def cudaRuntimeGetVersion(self):
        return 0, 13050

    def cudaGetDeviceCount(self):
        return 0, 1

    def cudaGetDeviceProperties(self, index):
        facts = {"name": b"Fake GPU", "major": 8, "minor": 9, "totalGlobalMem": 1 << 34}
        return 0, SimpleNamespace(**facts, **self._properties)

    def cudaGetErrorName(self, error):
        return 0, f"cudaError{int(error)}".encode()

    def cudaGetErrorString(self, error):
        return 0, b"as the test wanted"

    def cudaMalloc(self, nbytes):
        return 0, self._gpu.allocate(nbytes, "device")

    def cudaHostAlloc(self, nbytes, flags):
        return 0, self._gpu.allocate(nbytes, "host")

    def cudaFree(self, pointer):
        return self._done(self._gpu.release(pointer, "memory"))

    def cudaFreeHost(self, pointer):
        return self._done(self._gpu.release(pointer, "host memory"))

    def cudaHostGetDevicePointer(self, pointer, flags):
        assert self._gpu.find(pointer).kind == "host"
        return 0, pointer

    def cudaPointerGetAttributes(self, pointer):
        block = self._gpu.find(pointer)
        kinds = self.cudaMemoryType
        kind = {"device": kinds.cudaMemoryTypeDevice, "host": kinds.cudaMemoryTypeHost}
        found = kind[block.kind] if block else kinds.cudaMemoryTypeUnregistered
        return 0, SimpleNamespace(type=found, device=self._gpu.fail.get("device", 0))

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return 0, self._gpu.stream_create()

    def cudaStreamDestroy(self, stream):
        return self._done(self._gpu.stream_destroy(stream))

    def cudaStreamSynchronize(self, stream):
        return self._done(self._gpu.synchronize(stream))

    def cudaMemsetAsync(self, pointer, value, nbytes, stream):
        return self._done(self._gpu.fill(pointer, value, nbytes, stream))

    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        if kind == self.cudaMemcpyKind.cudaMemcpyDeviceToDevice:
            return self._done(self._gpu.copy_within(target, source, nbytes, stream))
        inward = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        host, device = (source, target) if inward else (target, source)
        return self._done(self._gpu.copy(target, source, nbytes, host, device, stream))

    def cudaEventCreateWithFlags(self, flags):
        assert flags == self.cudaEventDisableTiming
        return 0, self._gpu.mark_create()

    def cudaEventRecord(self, event, stream):
        return self._done(self._gpu.mark(event, stream))

    def cudaEventQuery(self, event):
        return (0 if self._gpu.mark_done(event) else self.cudaError_t.cudaErrorNotReady,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        return self._done(self._gpu.wait(stream, event))

    def cudaEventDestroy(self, event):
        del self._gpu.marks[event]
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        return self._done(self._gpu.begin(stream, mode.name))

    def cudaStreamEndCapture(self, stream):
        self._templates[graph := self._gpu.end(stream)] = False
        return 0, graph

    def cudaGraphInstantiate(self, graph, flags):
        assert self._templates[graph] is False
        self._templates[graph] = True
        return 0, graph

    def cudaGraphDestroy(self, graph):
        if not self._templates.pop(graph):
            self._gpu.graph_destroy(graph)
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        return self._done(self._gpu.launch(graph, stream))

    def cudaGraphExecDestroy(self, graph):
        return self._done(self._gpu.graph_destroy(graph))

    def _done(self, nothing: None) -> tuple[int]:
        return (0,)


_NO_RESULT = {
    *("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaStreamSynchronize", "cudaMemsetAsync"),
    *(
        "cudaMemcpyAsync",
        "cudaEventRecord",
        "cudaEventQuery",
        "cudaStreamWaitEvent",
        "cudaEventDestroy",
        "cudaGraphLaunch",
    ),
    *("cudaStreamBeginCapture", "cudaGraphDestroy", "cudaGraphExecDestroy"),
}


class FakeDriver:
    """`cuda.bindings.driver`."""

    CUpointer_attribute = enum.IntEnum("CUpointer_attribute", ["CU_POINTER_ATTRIBUTE_CONTEXT"])

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def cuInit(self, flags):
        return (0,)

    def cuDeviceGet(self, ordinal):
        return 0, ordinal

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, 0xC0 + device

    def cuCtxPushCurrent(self, context):
        self._gpu.stack().append(context)
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, self._gpu.pop()

    def cuPointerGetAttribute(self, attribute, pointer):
        block = self._gpu.find(pointer)
        return (0, block.context) if block else (1, None)
