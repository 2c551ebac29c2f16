"""A plan, loaded: TensorRT's runtime and engine, and the execution contexts that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.backends.rtx_cache import RtxCache
from runtime.backends.tensorrt_library import logger
from runtime.errors import BackendError
from runtime.manifest import TOWARD
from runtime.package import Engine

INPUT = "image"
DTYPES: dict[str, type[np.generic]] = {INPUT: np.uint8, TOWARD: np.float32}
"""Of the inputs, by name."""
_NAMES = {np.uint8: "UINT8", np.float32: "FLOAT"}
Shapes = dict[str, tuple[int, ...]]
"""Of the inputs, by name, in the engine's order: (rows, height, width, 3) of images, (rows, D) of targets."""


class LoadedEngine:
    """Loads on the device that is current.

    Args:
        trt: the library, see `tensorrt_library.library`.
        engine: its path names it in errors.
        plan: what `engine.read()` gave.
        cache: where TensorRT-RTX keeps what it compiles; used only with that library.

    Raises:
        BackendError: it does not load, or is not an engine of this project.
    """

    def __init__(self, trt: Any, engine: Engine, plan: bytes, cache: RtxCache) -> None:
        self.name = f"{trt.__name__} {trt.__version__}"
        self.inputs, self.outputs = engine.record.inputs, engine.record.outputs
        self._most = engine.record.batch[2]
        self.records_itself = False
        """Whether TensorRT-RTX replays CUDA graphs of its own in the contexts that are made from now on."""
        self.cannot_record = ""
        """Why TensorRT-RTX may say that the engine cannot be recorded, in words that follow that."""
        if (asked := engine.record.flags.get("require_user_allocation")) is None:
            self.cannot_record = " (it was built without require_user_allocation: build it again)"
        elif not asked:
            self.cannot_record = " (its builder could not do with require_user_allocation)"
        self._trt, self._log = trt, logger(trt)
        self._log.lines.clear()
        self._cache = cache
        self._runtime: Any = trt.Runtime(self._log)
        self._engine: Any = None
        self._config: Any = None
        try:
            self._engine = self.must(self._runtime.deserialize_cuda_engine(plan), f"loading {engine.path}")
            self.streams = int(getattr(self._engine, "num_aux_streams", 0))
            """How many streams TensorRT adds to the one it is given, to run branches side by side."""
            self._check_tensors(engine)
            if hasattr(getattr(trt, "IRuntimeConfig", None), "create_runtime_cache"):
                self._config = self._rtx_config(trt)
        except BaseException:
            self.close()
            raise
        self._warnings = list(self._log.lines)

    @property
    def log(self) -> tuple[str, ...]:
        """What TensorRT warned of while it loaded the engine, and what became of its cache."""
        return (*self._warnings, *self._cache.log)

    @property
    def dimension(self) -> int:
        """D of the targets that it takes."""
        return int(self._engine.get_tensor_shape(TOWARD)[1])

    def context(self, shapes: Shapes, allocate: Callable[[int], int]) -> Any:
        """A new execution context, whose inputs have these shapes.

        By itself TensorRT takes memory for the largest batch, whatever the context is used for.  A context
        for less is given no more than it needs, where the library can say how much that is.  (TensorRT-RTX
        is left to itself.)

        Args:
            shapes: the largest that they will have.
            allocate: bytes → the address of as much memory, which lives longer than the context.

        Raises:
            BackendError: TensorRT made none, or out of memory.
        """
        self._log.lines.clear()
        if self._config is not None:
            made = self._engine.create_execution_context(runtime_config=self._config)
            return self._shaped(made, shapes)
        if shapes[INPUT][0] < self._most and (context := self._smaller(shapes, allocate)) is not None:
            return context
        return self._shaped(self._engine.create_execution_context(), shapes)

    def _shaped(self, context: Any, shapes: Shapes) -> Any:
        try:
            self.must(context, "create_execution_context")
            for name, shape in shapes.items():
                self.must(context.set_input_shape(name, shape), f"set_input_shape {name} {shape}")
        except BaseException:
            context = None  # the traceback would keep it, longer than the engine
            raise
        return context

    def _smaller(self, shapes: Shapes, allocate: Callable[[int], int]) -> Any:
        """A context with the memory that these shapes need; None where the library cannot say or take it."""
        kind = getattr(self._trt, "IExecutionContext", None)
        sizes = hasattr(kind, "update_device_memory_size_for_shapes") and hasattr(kind, "set_device_memory")
        if not sizes or not hasattr(self._trt, "ExecutionContextAllocationStrategy"):
            return None
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._shaped(self._engine.create_execution_context(strategy), shapes)
        try:
            nbytes = context.update_device_memory_size_for_shapes()  # 0: an error, or nothing is needed
            if nbytes:
                context.set_device_memory(
                    allocate(nbytes), nbytes
                )  # answers nothing; what fails is in the log
                if not any(line.startswith("ERROR") for line in self._log.lines):
                    return context
        except BaseException:
            context = None  # see above
            raise
        rows = shapes[INPUT][0]
        self._warnings.append(f"memory of the largest batch for {rows} image(s): {self._log.text()}")
        return None

    def record_itself(self, yes: bool) -> bool:
        """Have TensorRT-RTX record what it launches, in contexts made from now on; False where it cannot."""
        if self._config is None or not hasattr(self._config, "cuda_graph_strategy"):
            return False
        strategies = self._trt.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if yes else strategies.DISABLED
        self.records_itself = yes
        return True

    def must(self, result: Any, what: str) -> Any:
        """`result`, unless it is the None or False that TensorRT answers where it fails.

        Raises:
            BackendError: with what TensorRT wrote to its log.
        """
        if result is None or result is False:
            raise BackendError(
                f"{self.name}: {what} failed:\n    {self._log.text()}",
                expected="success",
                cure="the lines above say why; python -m runtime doctor shows what is installed",
            )
        return result

    def save_cache(self) -> None:
        """Keep on disk what TensorRT-RTX has compiled so far."""
        self._cache.save()

    def close(self) -> None:
        """Release engine and runtime, in this order, after every context; may be called again."""
        self._cache.save()  # also what was compiled after the lanes were made
        self._config = None
        self._cache.release()
        self._engine = None
        self._runtime = None

    def _check_tensors(self, engine: Engine) -> None:
        """The engine has the names and types that the buffers are made for."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        types = {name: self._engine.get_tensor_dtype(name).name for name in names}
        inputs = {name: _NAMES[DTYPES[name]] for name in self.inputs}
        expected = {**inputs, **dict.fromkeys(self.outputs, "FLOAT")}
        if types != expected:
            raise BackendError(
                f"{engine.path} has the tensors {types}",
                expected=str(expected),
                cure="build the engine again with python -m export.build_engine",
            )

    def _rtx_config(self, trt: Any) -> Any:
        """How TensorRT-RTX is to compile: for the very shapes at hand, before their first run ends.

        Otherwise it would start with slower kernels and change them behind the run's back, and a CUDA graph
        would keep the slow ones for ever.
        """
        config = self.must(self._engine.create_runtime_config(), "create_runtime_config")
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        self._cache.load(config)
        return config
