"""A module like `tensorrt` whose engines are the kernels of `gpu_kernels`, for the runtime to run.

It has the part of the API that the runtime calls, and real work: what `execute_async_v3` enqueues computes
on the GPU, can be captured, and takes its time.  A test holds its names against the tests' own stand-in.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.gpu_kernels import DIMENSION, Kernels

NAMES = ("image", "embedding", "mask")
VERSION = "10.0.stand-in"
FAULTS = ("", "stale", "breaks")
"""Of a capture: `stale` records no kernel, so that a replay gives what was there; `breaks` is invalidated."""


class Context:
    """`IExecutionContext`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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

    def execute_async_v3(self, stream: int) -> bool:
        engine, addresses = self._engine, self._address
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

    def create_execution_context(self, *_: Any, **__: Any) -> Context:
        return Context(self)


class ILogger:
    """`ILogger`."""

    WARNING = 2

    def log(self, severity: Any, message: str) -> None: ...


def stand_in(kernels: Kernels, *, most: int, spin: int = 0, fault: str = "") -> ModuleType:
    """A module to put at `sys.modules["tensorrt"]`.

    Args:
        most: images that its engines take.
        spin: clock cycles of the GPU that a run takes at least.
        fault: of FAULTS.
    """
    trt = ModuleType("tensorrt")
    engine = Engine(kernels, most=most, spin=spin, fault=fault)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    attributes = {"__version__": VERSION, "ILogger": ILogger, "Runtime": lambda log: runtime}
    attributes["NetworkDefinitionCreationFlag"] = SimpleNamespace(STRONGLY_TYPED=1)
    trt.__dict__.update(attributes)
    return trt
