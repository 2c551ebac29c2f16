"""CUDA through NVIDIA's cuda-bindings: the runtime API, and the driver API for what is current in a thread.

Signatures are those of cuda-bindings 12.6 to 13.5.  Run so far: without a driver (probe and errors), and
over a stand-in for the bindings in the tests.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Any

from runtime.backends.cuda import DeviceInfo, DriverInfo, dotted, no_driver, reads_in_place
from runtime.errors import BackendError, BackendUnavailable, InputError

_MODULES = (("cuda.bindings.runtime", "cuda.bindings.driver"), ("cuda.cudart", "cuda.cuda"))
"""Their names of today, and those of cuda-python 12.0 to 12.5."""


class CudaBindings:
    """See `runtime.backends.cuda.Cuda`.

    Raises:
        BackendUnavailable: cuda-bindings is not installed, or does not load.
    """

    no_graphs = ""

    def __init__(self) -> None:
        self._runtime, self._driver = _modules()
        self.name = f"cuda-bindings for CUDA {dotted(self._call('cudaRuntimeGetVersion'))}"
        self._contexts: dict[int, Any] = {}
        self._in = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._out = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._within = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        # Other threads of the host application may allocate while this one captures.
        self._mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._launch, self._wait = self._runtime.cudaGraphLaunch, self._runtime.cudaStreamSynchronize

    def driver(self) -> DriverInfo:
        """See `Cuda.driver`."""
        version = dotted(self._call("cudaDriverGetVersion"))
        error, count = self._runtime.cudaGetDeviceCount()
        if error or not count:
            needs = dotted(self._call("cudaRuntimeGetVersion"))
            why = self._words(error) if error else "no device"
            raise no_driver(version=version, why=why, needs=needs)
        return DriverInfo(cuda=version, devices=int(count))

    def device(self, index: int) -> DeviceInfo:
        """See `Cuda.device`."""
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name
        return DeviceInfo(
            index=index,
            name=name.decode() if isinstance(name, bytes) else str(name),
            compute_capability=f"{properties.major}.{properties.minor}",
            memory_bytes=int(properties.totalGlobalMem),
            integrated=bool(properties.integrated),
            mapped_input=reads_in_place(
                integrated=bool(properties.integrated),
                can_map=bool(properties.canMapHostMemory),
                pageable_access=bool(properties.pageableMemoryAccess),
            ),
        )

    def current(self, index: int) -> AbstractContextManager[None]:
        """See `Cuda.current`.  Pushed and popped, so that a PyCUDA host finds its own context again."""
        return _Current(self._driver, self._primary(index))

    def malloc(self, nbytes: int) -> int:
        """See `Cuda.malloc`."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, pointer: int) -> None:
        """See `Cuda.free`."""
        self._call("cudaFree", pointer)

    def host_alloc(self, nbytes: int, *, mapped: bool) -> int:
        """See `Cuda.host_alloc`."""
        runtime = self._runtime
        flags = runtime.cudaHostAllocMapped if mapped else runtime.cudaHostAllocDefault
        return int(self._call("cudaHostAlloc", nbytes, flags))

    def host_free(self, pointer: int) -> None:
        """See `Cuda.host_free`."""
        self._call("cudaFreeHost", pointer)

    def mapped_pointer(self, pointer: int) -> int:
        """See `Cuda.mapped_pointer`."""
        return int(self._call("cudaHostGetDevicePointer", pointer, 0))

    def stream_create(self) -> int:
        """See `Cuda.stream_create`."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def stream_destroy(self, stream: int) -> None:
        """See `Cuda.stream_destroy`."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        (error,) = self._wait(stream)
        if error:
            raise self._failed("cudaStreamSynchronize", error)

    def copy_in(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """See `Cuda.copy_in`."""
        self._call("cudaMemcpyAsync", target, source, nbytes, self._in, stream)

    def copy_out(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """See `Cuda.copy_out`."""
        self._call("cudaMemcpyAsync", target, source, nbytes, self._out, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """See `Cuda.copy`."""
        self._call("cudaMemcpyAsync", target, source, nbytes, self._within, stream)

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        """See `Cuda.fill`."""
        self._call("cudaMemsetAsync", pointer, byte, nbytes, stream)

    def event_create(self) -> int:
        """See `Cuda.event_create`."""
        return int(self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming))

    def event_record(self, event: int, stream: int) -> None:
        """See `Cuda.event_record`."""
        self._call("cudaEventRecord", event, stream)

    def event_done(self, event: int) -> bool:
        """See `Cuda.event_done`."""
        (error,) = self._runtime.cudaEventQuery(event)
        if error and error != self._runtime.cudaError_t.cudaErrorNotReady:
            raise self._failed("cudaEventQuery", error)
        return not error

    def event_destroy(self, event: int) -> None:
        """See `Cuda.event_destroy`."""
        self._call("cudaEventDestroy", event)

    def order(self, first: int, then: int) -> None:
        """See `Cuda.order`."""
        event = self.event_create()
        try:
            self.event_record(event, first)
            self._call("cudaStreamWaitEvent", then, event, self._runtime.cudaEventWaitDefault)
        finally:
            self.event_destroy(event)

    def check_pointer(self, pointer: int, nbytes: int, index: int) -> None:
        """See `Cuda.check_pointer`."""
        device = self._runtime.cudaMemoryType.cudaMemoryTypeDevice
        managed = self._runtime.cudaMemoryType.cudaMemoryTypeManaged
        error, found = self._runtime.cudaPointerGetAttributes(pointer)
        if error or found.type not in (device, managed):
            raise InputError(
                f"address {pointer:#x} is not memory of a GPU",
                expected=f"an array on device {index}",
                cure="call the explainer itself for arrays of the host",
            )
        if found.type == device and found.device != index:
            raise InputError(
                f"an array on device {found.device}",
                expected=f"an array on device {index}, where the engine is",
                cure=f"open the Explainer with device={found.device}, or copy the array",
            )
        attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
        error, owner = self._driver.cuPointerGetAttribute(attribute, pointer)
        if not error and int(owner) and int(owner) != int(self._primary(index)):
            raise InputError(
                "an array that belongs to another CUDA context of this device",
                expected="the primary context",
                cure="with PyCUDA, import pycuda.autoprimaryctx instead of pycuda.autoinit",
            )

    def begin_capture(self, stream: int) -> None:
        """See `Cuda.begin_capture`."""
        self._call("cudaStreamBeginCapture", stream, self._mode)

    def end_capture(self, stream: int) -> int:
        """See `Cuda.end_capture`."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def graph_launch(self, graph: int, stream: int) -> None:
        """See `Cuda.graph_launch`."""
        (error,) = self._launch(graph, stream)
        if error:
            raise self._failed("cudaGraphLaunch", error)

    def graph_destroy(self, graph: int) -> None:
        """See `Cuda.graph_destroy`."""
        self._call("cudaGraphExecDestroy", graph)

    def _primary(self, index: int) -> Any:
        """The primary context of a device, held from its first use to the end of the process."""
        if index not in self._contexts:
            self._driver_call("cuInit", 0)
            device = self._driver_call("cuDeviceGet", index)
            self._contexts[index] = self._driver_call("cuDevicePrimaryCtxRetain", device)
        return self._contexts[index]

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *results = getattr(self._runtime, function)(*arguments)
        if error:
            raise self._failed(function, error)
        return results[0] if results else None

    def _driver_call(self, function: str, *arguments: Any) -> Any:
        error, *results = getattr(self._driver, function)(*arguments)
        if error:
            raise _failure(function, str(getattr(error, "name", error)))
        return results[0] if results else None

    def _failed(self, function: str, error: Any) -> BackendError:
        return _failure(function, self._words(error))

    def _words(self, error: Any) -> str:
        """CUDA's name and sentence for an error code."""
        name, sentence = (self._runtime.cudaGetErrorName(error), self._runtime.cudaGetErrorString(error))
        return f"{name[1].decode()}: {sentence[1].decode()}"


class _Current:
    """`with`: pushes a context, pops it."""

    __slots__ = ("_context", "_pop", "_push")

    def __init__(self, driver: ModuleType, context: Any) -> None:
        self._push, self._pop, self._context = driver.cuCtxPushCurrent, driver.cuCtxPopCurrent, context

    def __enter__(self) -> None:
        (error,) = self._push(self._context)
        if error:
            raise _failure("cuCtxPushCurrent", str(getattr(error, "name", error)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed, _ = self._pop()
        if failed:
            raise _failure("cuCtxPopCurrent", str(getattr(failed, "name", failed)))


def _failure(function: str, words: str) -> BackendError:
    return BackendError(
        f"{function} failed: {words}",
        expected="success",
        cure="free GPU memory if it says so; otherwise end this process, then python -m runtime doctor",
    )


def _modules() -> tuple[ModuleType, ModuleType]:
    for names in _MODULES:
        try:
            return importlib.import_module(names[0]), importlib.import_module(names[1])
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and names[0].startswith(error.name or "?"):
                continue  # no module of this name
            raise BackendUnavailable(
                f"{names[0]} is installed but does not load: {error}",
                expected="a working cuda-bindings",
                cure='pip install --force-reinstall "cuda-bindings>=12.6"',
            ) from error
    raise BackendUnavailable(
        "neither cuda-bindings nor PyCUDA is installed",
        expected="cuda-bindings of the driver's CUDA version (12 or 13)",
        cure='pip install "cuda-bindings>=12.6" (on JetPack 6: "cuda-bindings>=12.6,<13")',
    )
