"""Stand-ins for `cuda.bindings.runtime` and `tensorrt`, as far as the backend calls them.

"Device" memory is the host's.  What is enqueued on a stream happens at its synchronisation and not before.
`events` is what happened, in order.  Tests check that every name here is one of the real bindings.
"""

from __future__ import annotations

import ctypes
import enum
from types import ModuleType, SimpleNamespace

import numpy as np


class FakeCudart:
    """`cuda.bindings.runtime` with one GPU of compute capability 8.9."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])

    def __init__(self) -> None:
        self.events: list[str] = []
        self.memory: dict[int, ctypes.Array] = {}
        self.queue: list = []
        self.streams: set[int] = set()
        self.fail: dict[str, int] = {}

    def cudaDriverGetVersion(self):
        return 0, 13020

    def cudaRuntimeGetVersion(self):
        return 0, 13050

    def cudaGetDeviceCount(self):
        return self.fail.get("cudaGetDeviceCount", 0), 1

    def cudaGetDeviceProperties(self, index):
        return 0, SimpleNamespace(name=b"Fake GPU", major=8, minor=9, totalGlobalMem=1 << 34, integrated=0)

    def cudaSetDevice(self, index):
        return (0,)

    def cudaGetErrorName(self, error):
        return 0, f"cudaError{int(error)}".encode()

    def cudaGetErrorString(self, error):
        return 0, b"as the test wanted"

    def _allocate(self, what, nbytes):
        if what in self.fail:
            return self.fail[what], None
        block = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def _release(self, what, pointer):
        del self.memory[pointer]
        self.events.append(what)
        return (0,)

    def cudaMalloc(self, nbytes):
        return self._allocate("cudaMalloc", nbytes)

    def cudaMallocHost(self, nbytes):
        return self._allocate("cudaMallocHost", nbytes)

    def cudaFree(self, pointer):
        return self._release("cudaFree", pointer)

    def cudaFreeHost(self, pointer):
        return self._release("cudaFreeHost", pointer)

    def cudaStreamCreateWithFlags(self, flags):
        self.streams.add(7 + len(self.streams))
        return 0, max(self.streams)

    def cudaStreamDestroy(self, stream):
        self.streams.remove(stream)
        self.events.append("cudaStreamDestroy")
        return (0,)

    def cudaStreamSynchronize(self, stream):
        for work in self.queue:
            work()
        self.queue.clear()
        return (self.fail.get("cudaStreamSynchronize", 0),)

    def cudaMemsetAsync(self, pointer, value, nbytes, stream):
        self.queue.append(lambda: ctypes.memset(pointer, value, nbytes))
        return (0,)

    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        device = target if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert device in self.memory, "a copy to or from what is no device buffer"
        self.queue.append(lambda: ctypes.memmove(target, source, nbytes))
        return (0,)


def fake_tensorrt(cudart: FakeCudart, *, version: str = "10.3.0.30", fail: str = "") -> ModuleType:
    """A module like `tensorrt` whose every engine gives embedding = mean colour, mask = red / 255.

    Args:
        fail: name of the call that fails the way TensorRT fails: None or False, and a line in the log.
    """
    trt = ModuleType("tensorrt")

    class ILogger:
        WARNING = 2

        def log(self, severity, message): ...

    class Noted:
        def __del__(self):
            cudart.events.append(type(self).__name__)

    def answer(log, call, value, failed):
        if call != fail:
            return value
        log.log(SeverityStub.ERROR, f"{call} did not like it")
        return failed

    class Runtime(Noted):
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, plan):
            return answer(self.log, "deserialize_cuda_engine", ICudaEngine(self.log), None)

    class ICudaEngine(Noted):
        num_io_tensors = 3

        def __init__(self, log):
            self.log = log

        def get_tensor_name(self, index):
            return ("image", "embedding", "mask")[index]

        def get_tensor_dtype(self, name):
            wrong = fail == "get_tensor_dtype" and name == "mask"
            return SimpleNamespace(name="UINT8" if name == "image" else "HALF" if wrong else "FLOAT")

        def create_execution_context(self):
            return answer(self.log, "create_execution_context", IExecutionContext(self.log), None)

    class IExecutionContext(Noted):
        def __init__(self, log):
            self.log, self.address, self.shape = log, {}, ()

        def set_input_shape(self, name, shape):
            self.shape = shape
            return answer(self.log, "set_input_shape", True, False)

        def get_tensor_shape(self, name):
            n, height, width, _ = self.shape
            return {"image": self.shape, "embedding": (n, 3), "mask": (n, height, width)}[name]

        def set_tensor_address(self, name, pointer):
            self.address[name] = pointer
            return answer(self.log, "set_tensor_address", True, False)

        def execute_async_v3(self, stream):
            assert stream in cudart.streams
            shapes = {name: self.get_tensor_shape(name) for name in self.address}
            cudart.queue.append(lambda address=dict(self.address): compute(address, shapes))
            return answer(self.log, "execute_async_v3", True, False)

    def compute(address, shapes):
        view = {
            name: np.ndarray(
                shapes[name],
                np.uint8 if name == "image" else np.float32,
                buffer=(
                    ctypes.c_uint8 * (int(np.prod(shapes[name])) * (1 if name == "image" else 4))
                ).from_address(pointer),
            )
            for name, pointer in address.items()
        }
        view["embedding"][:] = view["image"].mean((1, 2))
        view["mask"][:] = view["image"][..., 0] / 255

    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    trt.ILogger, trt.Runtime = ILogger, Runtime
    trt.ICudaEngine, trt.IExecutionContext = ICudaEngine, IExecutionContext
    return trt


class SeverityStub(enum.IntEnum):
    """`ILogger.Severity`."""

    ERROR = 1
