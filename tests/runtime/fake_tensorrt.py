"""Fakes of `tensorrt` and `tensorrt_rtx`, on a `Gpu`.  A test compares their names with the real library.

Every engine gives embedding = mean colour, mask = red / 255.  The plan `EMBEDDING` gives no mask.  The plan
`OVERFLOWS` gives a mask of NaN for an image whose values are all 255.  The plan `TARGETS` takes a target for
each image, with the embedding's dimension, and multiplies the mask by its mean unless it is zero.
A call whose name is in `gpu.fail` fails like TensorRT: it returns None or False and logs a line;
`recorded execute_async_v3` fails during a capture only, `own recording` in captures by TensorRT-RTX only.
"""

from __future__ import annotations

import ctypes
import enum
import threading
import time
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.runtime.fake_gpu import Gpu

EMBEDDING = b"a plan without a mask"
TARGETS = b"a plan that takes a target"
OVERFLOWS = b"a plan that leaves the range of half precision"
RECORDABLE = b"a plan of TensorRT-RTX built with REQUIRE_USER_ALLOCATION"
"""The only plan of TensorRT-RTX whose contexts can be captured."""
COMPILED = b"what TensorRT-RTX compiled"
"""The start of its cache; the batch sizes follow."""


class Severity(enum.IntEnum):
    """`ILogger.Severity`."""

    ERROR = 1


class Alive:
    """An object that the `Gpu` counts while it lives; its parent must live longer."""

    def _born(self, gpu: Gpu, log, parent: Alive | None = None) -> None:
        self._gpu, self._log, self._children, self._gone = gpu, log, [], False
        self._siblings = parent._children if parent else []
        self._siblings.append(1)  # only the list: a reference to the parent would keep the parent alive
        gpu.objects[type(self).__name__] += 1

    def __del__(self) -> None:
        if not self._gone:
            self._go()

    def _go(self) -> None:
        self._gone = True
        self._gpu.objects[type(self).__name__] -= 1
        self._gpu.events.append(type(self).__name__)
        self._siblings.pop()
        self._gpu.rule("release", not self._children)

    def _answer(self, call: str, value, failed):
        if call not in self._gpu.fail:
            return value
        self._log.log(Severity.ERROR, f"{call} did not like it")
        return failed


class ILogger:
    WARNING = 2

    def log(self, severity, message): ...


class Runtime(Alive):
    def __init__(self, gpu, log, profile, rtx):
        self._born(gpu, log)
        self._made = profile, rtx
        gpu.check_current()

    def deserialize_cuda_engine(self, plan):
        self._gpu.check_quiet()
        kind = RtxEngine if self._made[1] else ICudaEngine
        return self._answer("deserialize_cuda_engine", kind(self, self._made[0], plan), None)

    def get_engine_validity(self, plan):
        wrong = "get_engine_validity" in self._gpu.fail
        return SimpleNamespace(name="INVALID" if wrong else "VALID"), 2 * wrong


class ICudaEngine(Alive):
    num_aux_streams = 1

    def __init__(self, runtime, profile, plan):
        self._born(runtime._gpu, runtime._log, runtime)
        self._profile, self._plan = profile, plan
        inputs = ("image", "toward") if plan == TARGETS else ("image",)
        self._names = (*inputs, "embedding", "mask")[: 2 if plan == EMBEDDING else None]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        wrong = "get_tensor_dtype" in self._gpu.fail and name == "mask"
        return SimpleNamespace(name="UINT8" if name == "image" else "HALF" if wrong else "FLOAT")

    def get_tensor_shape(self, name):
        return {"toward": (-1, 3)}[name]

    def create_execution_context(self, strategy="STATIC"):
        self._gpu.check_quiet()
        made = IExecutionContext(self)
        made.memory = {"STATIC": None, "USER_MANAGED": (0, 0)}[strategy]
        return self._answer("create_execution_context", made, None)


class IExecutionContext(Alive):
    memory = None  # address and size of what it computes in, where it has none of its own

    def __init__(self, engine):
        self._born(engine._gpu, engine._log, engine)
        self._profile, self._names, self._plan = engine._profile, engine._names, engine._plan
        self._address, self._shape, self._targets = {}, (), ()
        self._ran: object = None  # shapes and addresses of the last run that was not recorded
        self._busy = threading.Lock()
        self.settled = False  # that run was waited for
        self.graph = 0  # -1 while it is recorded

    def _go(self):
        super()._go()
        self._gpu.rule("release", not self.graph)

    def set_input_shape(self, name, shape):
        self._gpu.rule("one context", not self.graph)
        least, most = self._profile
        fits = name in self._names and least <= shape[0] <= most
        if name == "toward":
            fits, self._targets = fits and shape[1:] == (3,), tuple(shape)
        else:
            self._shape = tuple(shape)
        return self._answer("set_input_shape", fits, False)

    def get_tensor_shape(self, name):
        n, height, width, _ = self._shape
        return {
            "image": self._shape,
            "toward": self._targets,
            "embedding": (n, 3),
            "mask": (n, height, width),
        }[name]

    def set_tensor_address(self, name, pointer):
        self._gpu.rule("one context", not self.graph)
        self._gpu.rule("aligned", pointer % 256 == 0)
        self._address[name] = pointer
        return self._answer("set_tensor_address", True, False)

    def update_device_memory_size_for_shapes(self):
        return 1000 * self._shape[0]

    def set_device_memory(self, memory, size):
        self._gpu.rule("aligned", memory % 256 == 0)
        self.memory = memory, size

    def execute_async_v3(self, stream):
        gpu = self._gpu
        gpu.rule("one thread", self._busy.acquire(blocking=False))
        try:
            time.sleep(0.0005)  # long enough for another thread to come in
            state = (self._shape, dict(self._address))
            if "toward" in self._names:
                gpu.rule("rows", self._targets[:1] == self._shape[:1])
            known = set(self._names) == set(self._address)
            gpu.rule("address", known and all(gpu.find(p) for p in self._address.values()))
            address, size = self.memory or (0, 0)
            if self.memory:
                gpu.rule("address", gpu.find(address) and size >= self.update_device_memory_size_for_shapes())
            recording = gpu.stream(stream).recording is not None
            gpu.rule("one context", not self.graph)
            if recording:
                gpu.rule("warm", self.settled and self._ran == state)
                self.graph = -1
            else:
                self._ran, self.settled = state, False
            gpu.stream(stream).users.append(self)
            shapes = {name: self.get_tensor_shape(name) for name in self._address}
            overflows = self._plan == OVERFLOWS
            touched = {*self._address.values(), *([address] if address else [])}
            gpu.enqueue(stream, lambda: compute(state[1], shapes, overflows), *touched)
            if recording and "recorded execute_async_v3" in gpu.fail:
                return False
            return self._answer("execute_async_v3", True, False)
        finally:
            self._busy.release()


class RtxEngine(ICudaEngine):
    def create_runtime_config(self):
        return IRuntimeConfig(self)

    def create_execution_context(self, runtime_config=None):
        self._gpu.check_quiet()
        made = RtxContext(self)
        made.records = bool(getattr(runtime_config, "cuda_graph_strategy", 0))
        made._cache = runtime_config and runtime_config._cache
        return self._answer("create_execution_context", made, None)


class RtxContext(IExecutionContext):
    records = False  # by itself: a run, then its replays
    _cache = None

    def __init__(self, engine):
        super().__init__(engine)
        self._compiled = []  # batch sizes, where there is no cache

    def is_stream_capturable(self, stream):
        return self._plan == RECORDABLE

    def execute_async_v3(self, stream):
        if self._gpu.stream(stream).recording is not None and not self.is_stream_capturable(stream):
            self._log.log(Severity.ERROR, "memory of a run cannot be had while a stream is recorded")
            return False
        if self.records and "own recording" in self._gpu.fail:
            return True
        rows = self._shape[0]
        if rows not in (compiled := self._cache.compiled if self._cache else self._compiled):
            self._gpu.compilations += 1
            compiled.append(rows)
        return super().execute_async_v3(stream)


class IRuntimeConfig(Alive):
    cuda_graph_strategy = 0
    dynamic_shapes_kernel_specialization_strategy = 0

    def __init__(self, engine):
        self._born(engine._gpu, engine._log, engine)
        self._cache = None

    def create_runtime_cache(self):
        return self._answer("create_runtime_cache", IRuntimeCache(self), None)

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True


class IRuntimeCache:
    def __init__(self, config):
        self._gpu, self.compiled = config._gpu, []  # batch sizes

    def serialize(self):
        return COMPILED + bytes(sorted(self.compiled))

    def deserialize(self, blob):
        self._gpu.check_current()
        fits = blob.startswith(COMPILED)
        self.compiled = [*blob[len(COMPILED) :]] if fits else []
        return fits


def compute(address, shapes, overflows):
    view = {}
    for name, pointer in address.items():
        dtype = np.dtype(np.uint8 if name == "image" else np.float32)
        nbytes = int(np.prod(shapes[name])) * dtype.itemsize
        memory = (ctypes.c_uint8 * nbytes).from_address(pointer)
        view[name] = np.ndarray(shapes[name], dtype, buffer=memory)
    view["embedding"][:] = view["image"].mean((1, 2))
    if "mask" in view:
        view["mask"][:] = view["image"][..., 0] / 255
        if "toward" in view:
            given = view["toward"].any(1)
            view["mask"][:] *= np.where(given, view["toward"].mean(1), 1)[:, None, None]
        if overflows:
            view["mask"][view["image"].min((1, 2, 3)) == 255] = np.nan


def fake_tensorrt(
    gpu: Gpu, *, version: str = "10.3.0.30", rtx: bool = False, profile: tuple[int, int] = (1, 4)
) -> ModuleType:
    """A module like `tensorrt`, or like `tensorrt_rtx`, whose engines take `profile` images."""
    trt = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    trt.ILogger = ILogger
    trt.IExecutionContext = IExecutionContext
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    trt.Runtime = lambda log: Runtime(gpu, log, profile, rtx)
    if rtx:
        trt.IRuntimeConfig = IRuntimeConfig
        trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1)
        trt.CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
        trt.EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", {"UNSUPPORTED_CC": 2})
    return trt


OWN = {"settled", "graph", "memory", "records"}
"""Attributes for the tests."""
