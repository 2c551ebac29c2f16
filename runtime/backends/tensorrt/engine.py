"""A loaded plan: TensorRT's runtime and engine, their execution contexts, and what TensorRT-RTX compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import atomic_file
from runtime.backends.cuda.base import DeviceInfo
from runtime.backends.tensorrt.library import logger
from runtime.errors import BackendError
from runtime.package.folder import Engine, cache_folder
from runtime.package.manifest import TOWARD, EngineRecord

INPUT = "image"
DTYPES: dict[str, type[np.generic]] = {INPUT: np.uint8, TOWARD: np.float32}
"""dtype of each input."""
_NAMES = {np.uint8: "UINT8", np.float32: "FLOAT"}
Shapes = dict[str, tuple[int, ...]]
"""Shape of each input, in the engine's order: (rows, height, width, 3) for images, (rows, D) for targets."""


class LoadedEngine:
    """An engine on the current device.

    Args:
        trt: the library, see `tensorrt_library.library`.
        engine: its sidecar's record, and its path for errors.
        plan: from `engine.read()`.
        cache: keeps what TensorRT-RTX compiles; used only with that library.

    Raises:
        BackendError: it does not load, or is not an engine of this project.
    """

    def __init__(self, trt: Any, engine: Engine, plan: bytes, cache: RtxCache) -> None:
        self.name = f"{trt.__name__} {trt.__version__}"
        self.inputs, self.outputs = engine.record.inputs, engine.record.outputs
        self._most = engine.record.batch[2]
        self.records_itself = False
        """Whether TensorRT-RTX captures CUDA graphs by itself in contexts made from now on."""
        self.cannot_record = ""
        """Why TensorRT-RTX may refuse a capture of this engine, as an addition to that sentence."""
        if (asked := engine.record.flags.get("require_user_allocation")) is None:
            self.cannot_record = " (it was built without require_user_allocation: build it again)"
        elif not asked:
            self.cannot_record = " (its builder could not do with require_user_allocation)"
        self._trt, self._log = trt, logger(trt)
        self._log.lines.clear()
        self.cache = cache
        self._runtime: Any = trt.Runtime(self._log)
        self._engine: Any = None
        self._config: Any = None
        try:
            self._engine = self.must(self._runtime.deserialize_cuda_engine(plan), f"loading {engine.path}")
            self.streams = int(getattr(self._engine, "num_aux_streams", 0))
            """Number of streams that TensorRT adds to the given one, to run branches in parallel."""
            self._check_tensors(engine)
            if hasattr(getattr(trt, "IRuntimeConfig", None), "create_runtime_cache"):
                self._config = self._rtx_config(trt)
        except BaseException:
            self.close()
            raise
        self._warnings = list(self._log.lines)

    @property
    def log(self) -> tuple[str, ...]:
        """TensorRT's warnings while it loaded the engine, and problems with its cache."""
        return (*self._warnings, *self.cache.log)

    @property
    def dimension(self) -> int:
        """Dimension D of its targets."""
        return int(self._engine.get_tensor_shape(TOWARD)[1])

    def context(self, shapes: Shapes, allocate: Callable[[int], int]) -> Any:
        """Make an execution context with these input shapes.

        By default TensorRT allocates memory for the largest batch.  A context for a smaller batch gets only
        what it needs, if the library can tell how much that is.  TensorRT-RTX always allocates by itself.

        Args:
            shapes: the largest input shapes of the context.
            allocate: number of bytes → address of new memory, which must live longer than the context.

        Raises:
            BackendError: TensorRT made no context, or there is not enough memory.
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
            context = None  # else the traceback keeps it longer than the engine
            raise
        return context

    def _smaller(self, shapes: Shapes, allocate: Callable[[int], int]) -> Any:
        """A context with as much memory as these shapes need; None if the library cannot do that."""
        kind = getattr(self._trt, "IExecutionContext", None)
        sizes = hasattr(kind, "update_device_memory_size_for_shapes") and hasattr(kind, "set_device_memory")
        if not sizes or not hasattr(self._trt, "ExecutionContextAllocationStrategy"):
            return None
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._shaped(self._engine.create_execution_context(strategy), shapes)
        try:
            nbytes = context.update_device_memory_size_for_shapes()  # 0: an error, or no memory is needed
            if nbytes:
                context.set_device_memory(allocate(nbytes), nbytes)  # returns nothing; errors are in the log
                if not any(line.startswith("ERROR") for line in self._log.lines):
                    return context
        except BaseException:
            context = None  # see above
            raise
        rows = shapes[INPUT][0]
        self._warnings.append(f"memory of the largest batch for {rows} image(s): {self._log.text()}")
        return None

    def record_itself(self, yes: bool) -> bool:
        """Make TensorRT-RTX capture CUDA graphs by itself in new contexts, or stop it; False if it cannot."""
        if self._config is None or not hasattr(self._config, "cuda_graph_strategy"):
            return False
        strategies = self._trt.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if yes else strategies.DISABLED
        self.records_itself = yes
        return True

    def must(self, result: Any, what: str) -> Any:
        """Return `result`, unless it is None or False, with which TensorRT reports a failure.

        Raises:
            BackendError: it is; the message has the lines of TensorRT's log.
        """
        if result is None or result is False:
            raise BackendError(
                f"{self.name}: {what} failed:\n    {self._log.text()}",
                expected="success",
                cure="the lines above say why; nemu doctor shows what is installed",
            )
        return result

    def close(self) -> None:
        """Release engine and runtime, in this order, after every context; a second call does nothing."""
        self.cache.save()  # also what was compiled after the lanes were made
        self._config = None
        self.cache.release()
        self._engine = None
        self._runtime = None

    def _check_tensors(self, engine: Engine) -> None:
        """Raise `BackendError` unless the engine has the tensors that the buffers are made for."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        types = {name: self._engine.get_tensor_dtype(name).name for name in names}
        inputs = {name: _NAMES[DTYPES[name]] for name in self.inputs}
        expected = {**inputs, **dict.fromkeys(self.outputs, "FLOAT")}
        if types != expected:
            raise BackendError(
                f"{engine.path} has the tensors {types}",
                expected=str(expected),
                cure="build the engine again: nemu build",
            )

    def _rtx_config(self, trt: Any) -> Any:
        """A configuration with which TensorRT-RTX compiles for the given shapes during their first run.

        Otherwise it starts with slower kernels and replaces them later, and a CUDA graph would keep the slow
        ones.
        """
        config = self.must(self._engine.create_runtime_config(), "create_runtime_config")
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        self.cache.load(config)
        return config


class RtxCache:
    """One file in the user's cache directory for each plan, library version and GPU.

    TensorRT-RTX itself checks the driver and refuses a file that it cannot use; that file is deleted.
    An error here never fails a run: without a cache an engine starts more slowly, and `log` says why.

    Args:
        record: the engine's record.
        gpu: the GPU that it runs on.
    """

    def __init__(self, record: EngineRecord, gpu: DeviceInfo) -> None:
        self.path: Path = cache_folder(record.package) / "compiled" / f"{engine_here(record, gpu)}.rtx"
        self.log: list[str] = []
        """Problems with the cache, one line each."""
        self._cache: Any = None
        self._on_disk = b""

    def load(self, config: Any) -> None:
        """Give a runtime configuration a cache, filled from the file if that is usable."""
        cache = config.create_runtime_cache()
        if cache is not None:
            self._fill(cache)
            if config.set_runtime_cache(cache):
                self._cache = cache
                return
        self.log.append("no compilation cache: TensorRT-RTX does not accept one")

    def _fill(self, cache: Any) -> None:
        try:
            self._on_disk = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.log.append(f"the compilation cache {self.path} cannot be read: {error}")
            return
        if not cache.deserialize(self._on_disk):
            self._on_disk = b""
            self.log.append(f"the compilation cache {self.path} is damaged or of another driver: deleted")
            try:
                self.path.unlink()
            except OSError as error:
                self.log.append(f"the compilation cache {self.path} cannot be deleted: {error}")

    def save(self) -> None:
        """Write the file if something has been compiled since it was written."""
        if self._cache is None:
            return
        memory = self._cache.serialize()
        if memory is None:
            self.log.append("the compilation cache was not saved: TensorRT-RTX gave nothing to save")
            return
        if (content := bytes(memory)) == self._on_disk:
            return
        try:
            with atomic_file(self.path) as file:
                file.write_bytes(content)
        except OSError as error:
            self.log.append(f"the compilation cache {self.path} was not saved: {error}")
        else:
            self._on_disk = content

    def release(self) -> None:
        """Drop TensorRT's cache object; call it before the engine is released."""
        self._cache = None


def engine_here(record: EngineRecord, gpu: DeviceInfo) -> str:
    """Stem of a file name for one plan, one version of its library and one kind of GPU."""
    key = f"{record.sha256} {record.version} {gpu.name} {gpu.compute_capability}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]
