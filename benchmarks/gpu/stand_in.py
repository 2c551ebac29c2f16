"""A module like `tensorrt` whose engines run the kernels of `gpu.kernels`.

It has the part of the API that the runtime calls.  `execute_async_v3` enqueues real work, which computes on
the GPU and can be captured.  A test compares its names with those of the tests' own fake TensorRT.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.gpu.kernels import DIMENSION, Kernels

NAMES = ("image", "embedding", "mask")
VERSION = "10.0.stand-in"
FAULTS = ("", "stale", "breaks", "refuses")
"""Faults of a capture: `stale` records no kernel, so a replay leaves old outputs; `breaks` makes it invalid;
`refuses` (TensorRT-RTX only) says that the engine cannot be captured, and does not run during a capture."""
SCRATCH = 4096
"""Bytes for each image that a context without memory of its own must be given."""


class Context:
    """`IExecutionContext`."""

    def __init__(self, engine: Engine, *, given: int | None = None) -> None:
        self._engine, self._given = engine, given  # bytes that it was given; None: it has its own memory
        self._shape: tuple[int, ...] = ()
        self._address: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return name == "image" and 1 <= shape[0] <= self._engine.most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        n, height, width, _ = self._shape
        return {"image": self._shape, "embedding": (n, DIMENSION), "mask": (n, height, width)}[name]

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._address[name] = int(pointer)
        return name in NAMES

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        self._given = size if memory and memory % 256 == 0 else 0

    def execute_async_v3(self, stream: int) -> bool:
        engine, addresses = self._engine, self._address
        if self._given is not None and self._given < self.update_device_memory_size_for_shapes():
            return False
        if engine.fault and engine.kernels.recording(stream):
            if engine.fault == "breaks":
                engine.kernels.forbidden(stream)
                return False
            return True
        engine.kernels.infer(
            stream, addresses["image"], addresses["embedding"], addresses["mask"], self._shape, engine.spin
        )
        return True


class Engine:
    """`ICudaEngine`."""

    num_io_tensors = len(NAMES)
    num_aux_streams = 0

    def __init__(self, kernels: Kernels, *, most: int, spin: int, fault: str) -> None:
        self.kernels, self.most, self.spin, self.fault = kernels, most, spin, fault

    def get_tensor_name(self, index: int) -> str:
        return NAMES[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="UINT8" if name == "image" else "FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"embedding": (-1, DIMENSION)}[name]

    def create_execution_context(self, strategy: str = "STATIC") -> Context:
        return Context(self, given={"STATIC": None, "USER_MANAGED": 0}[strategy])


class RtxContext(Context):
    """`IExecutionContext` of TensorRT-RTX."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine.fault != "refuses"

    def execute_async_v3(self, stream: int) -> bool:
        if self._engine.kernels.recording(stream) and not self.is_stream_capturable(stream):
            return False
        return super().execute_async_v3(stream)


class RtxEngine(Engine):
    """`ICudaEngine` of TensorRT-RTX."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> Context:  # type: ignore[override]
        return RtxContext(self)


class RuntimeConfig:
    """`IRuntimeConfig`."""

    cuda_graph_strategy = 0
    dynamic_shapes_kernel_specialization_strategy = 0

    def create_runtime_cache(self) -> None:
        """Returns None, since nothing is cached."""

    def set_runtime_cache(self, cache: Any) -> bool:
        return False


class ILogger:
    """`ILogger`."""

    WARNING = 2

    def log(self, severity: Any, message: str) -> None: ...


def stand_in(kernels: Kernels, *, most: int, spin: int = 0, fault: str = "", rtx: bool = False) -> ModuleType:
    """A module to put at `sys.modules["tensorrt"]`; with `rtx`, at that of `tensorrt_rtx`.

    Args:
        most: largest batch of its engines.
        spin: least clock cycles of the GPU in a run.
        fault: one of FAULTS.
    """
    trt = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    engine = (RtxEngine if rtx else Engine)(kernels, most=most, spin=spin, fault=fault)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    attributes: dict[str, Any] = {
        "__version__": VERSION,
        "ILogger": ILogger,
        "Runtime": lambda log: runtime,
        "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=1),
        "IExecutionContext": Context,
        "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="USER_MANAGED"),
    }
    if rtx:
        attributes["IRuntimeConfig"] = RuntimeConfig
        attributes["DynamicShapesKernelSpecializationStrategy"] = SimpleNamespace(EAGER=1)
        attributes["CudaGraphStrategy"] = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
    trt.__dict__.update(attributes)
    return trt
