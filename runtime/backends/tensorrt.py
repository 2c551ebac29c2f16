"""An engine of the package, through TensorRT's V3 calls: 10.0 to 11.4, and TensorRT-RTX.

    photographs → pinned → device ─┐                  ┌─ embedding → pinned → a copy that the caller owns
                                   └─ execute_async_v3 ┤
                                       (own stream)    └─ mask ──────→ pinned → a copy that the caller owns

The driver is probed before any TensorRT object exists (some versions crash without one), and the sidecar
is compared with this machine before a plan is deserialised.

Run so far: selection and refusals, on real packages; `run` and `close` over stand-ins for CUDA and
TensorRT in the tests, whose names are those of the real bindings.  On a GPU: see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from runtime.backends import cuda
from runtime.backends.base import Backend, check_images
from runtime.backends.tensorrt_library import FLAVOURS, library, logger, validity, version
from runtime.errors import BackendError, BackendUnavailable, EngineMismatch
from runtime.manifest import EngineRecord, InputRecord
from runtime.package import Engine, Package

_OUTPUTS = ("embedding", "mask")
_TYPES = {"image": "UINT8", "embedding": "FLOAT", "mask": "FLOAT"}


def open_backend(package: Package, *, device: int = 0, precision: str | None = None) -> Backend:
    """Open the engine of `package`, of one precision if that is given, that fits this machine best.

    Raises:
        BackendUnavailable: no driver, no such device, or no library for any engine of the package.
        EngineMismatch: no engine fits; what each was built for, and the command that builds one.
        IntegrityError: the engine is not the one its sidecar describes.
        BackendError: the engine fits and does not load.
    """
    engine = select(package, cuda.device(device).compute_capability, precision)
    return open_engine(package, engine, device=device)


def open_engine(package: Package, engine: Engine, *, device: int = 0) -> Backend:
    """Open one engine of `package`; raises as `open_backend` does."""
    gpu = cuda.device(device)
    reason = misfit(engine.record, gpu.compute_capability)
    plan = engine.read()
    if not reason and engine.record.flavour == "rtx":
        judged = validity(plan)
        if judged.answer == "INVALID":
            reason = f"TensorRT-RTX on {gpu.name} ({gpu.compute_capability}): {judged.meaning}"
    if reason:
        raise _mismatch(package, f"{engine.path.name}: {reason}", gpu.compute_capability)
    return TensorRTBackend(engine, plan=plan, input=package.manifest.input, gpu=gpu)


def select(package: Package, capability: str, precision: str | None = None) -> Engine:
    """The engine of `package` that fits this machine: fp16 first, then one built for this very GPU.

    Args:
        capability: compute capability of the GPU, such as `8.7`.
        precision: of the engine; None takes any.

    Raises:
        BackendUnavailable: every engine needs a library that is not here.
        EngineMismatch: there are engines for libraries that are here, but none fits; or none at all.
    """
    fitting: list[Engine] = []
    refused: list[str] = []
    missing: list[BackendUnavailable] = []
    for engine in package.engines():
        try:
            reason = misfit(engine.record, capability)
        except BackendUnavailable as error:
            missing.append(error)
            reason = error.came
        if not reason and precision not in (None, engine.record.precision):
            reason = f"it is {engine.record.precision}, not {precision}"
        if reason:
            refused.append(f"{engine.path.name}: {reason}")
        else:
            fitting.append(engine)
    if fitting:
        return min(fitting, key=_preference)
    if missing and len(missing) == len(refused):
        raise missing[0]
    raise _mismatch(package, "\n    ".join(refused) or "it holds none", capability)


def misfit(record: EngineRecord, capability: str) -> str:
    """Why an engine cannot run with what is here: "built for X, this is Y"; empty if it can.

    Raises:
        BackendUnavailable: its library is not here.
    """
    if record.flavour not in FLAVOURS:
        return f"built for {record.flavour}, which this version of nemu does not know"
    here = version(record.flavour)
    if here != record.version:
        return f"built for {record.flavour} {record.version}, this is {record.flavour} {here}"
    if record.compute_capability == "portable":
        # TensorRT-RTX finishes a portable plan on the GPU; Turing (7.5) needs a plan of its own.
        return "" if _number(capability) >= (8, 0) else f"built for 8.0 and newer GPUs, this is {capability}"
    if record.compute_capability != capability:
        return f"built for compute capability {record.compute_capability}, this is {capability}"
    return ""


def _mismatch(package: Package, reasons: str, capability: str) -> EngineMismatch:
    return EngineMismatch(
        f"no engine of {package.path} fits this machine\n    {reasons}",
        expected=f"an engine of flavour {' or '.join(FLAVOURS)} for compute capability {capability}",
        cure=f"run: {package.build_command()}",
    )


def _preference(engine: Engine) -> tuple[bool, bool, str]:
    record = engine.record
    return record.precision != "fp16", record.compute_capability == "portable", engine.path.name


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


class TensorRTBackend:
    """One engine, one context, one stream, fixed buffers for its largest batch.

    Args:
        engine: fits this machine; `open_backend` chooses it.
        plan: what `engine.read()` gave.
        input: of the package's manifest.
        gpu: where it runs.

    Raises:
        BackendError: it does not load, or a first run fails.
    """

    def __init__(self, engine: Engine, *, plan: bytes, input: InputRecord, gpu: cuda.DeviceInfo) -> None:
        record = engine.record
        trt = library(record.flavour)
        self.name = f"{trt.__name__} {trt.__version__}"
        self.why = f"{engine.path.name} fits {gpu.name} ({gpu.compute_capability})"
        self.precision = record.precision
        self.max_batch = record.batch[2]
        self.degraded = "no CUDA graph: every run enqueues its kernels one by one"
        self._shape = (input.height, input.width, 3)
        self._min_batch = record.batch[0]
        self._device = gpu.index
        self._log = logger(trt)
        self.load_log: tuple[str, ...] = ()
        """What TensorRT warned of while it loaded the engine."""
        self._memory = ExitStack()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        try:
            self._load(trt, engine, plan)
            # TensorRT-RTX compiles for this GPU now, and what cannot run says so now.
            self.run(np.zeros((1, *self._shape), np.uint8))
        except BaseException:
            self.close()
            raise

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.run`."""
        if self._context is None:
            raise BackendError(
                f"{self.name} was used after close()",
                expected="an open backend",
                cure="open the package again",
            )
        height, width, _ = self._shape
        images = check_images(images, height=height, width=width, max_batch=self.max_batch)
        n = len(images)
        rows = max(
            n, self._min_batch
        )  # the profile's least; rows beyond n hold older images, and are dropped
        self._log.lines.clear()
        cuda.use(self._device)
        self._host["image"].array[:n] = images
        cuda.to_device(self._buffers["image"], self._host["image"].array[:rows], self._stream)
        self._must(
            self._context.set_input_shape("image", (rows, *self._shape)), f"set_input_shape for {rows} images"
        )
        self._must(self._context.execute_async_v3(self._stream.handle), "execute_async_v3")
        for name in _OUTPUTS:
            cuda.to_host(self._host[name].array[:rows], self._buffers[name], self._stream)
        self._stream.synchronize()
        embedding, mask = (self._host[name].array[:n].copy() for name in _OUTPUTS)
        return embedding, mask

    def poison(self) -> None:
        """Fill every output buffer, here and on the device, with NaN: a run that writes nothing shows."""
        for name in _OUTPUTS:
            self._host[name].array.fill(np.nan)
            self._buffers[name].fill(0xFF, self._stream)  # four bytes of 0xFF are a NaN
        self._stream.synchronize()

    def close(self) -> None:
        """Release context, engine, runtime, buffers and stream, in this order; may be called again."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._memory.close()

    def _load(self, trt: Any, engine: Engine, plan: bytes) -> None:
        cuda.use(self._device)
        self._stream = self._memory.enter_context(cuda.Stream())
        self._log.lines.clear()
        self._runtime = trt.Runtime(self._log)
        self._engine = self._must(self._runtime.deserialize_cuda_engine(plan), f"loading {engine.path}")
        self._context = self._must(self._engine.create_execution_context(), "create_execution_context")
        self.load_log = tuple(self._log.lines)
        self._check_tensors(engine)
        self._allocate()

    def _check_tensors(self, engine: Engine) -> None:
        """The engine has the names and types that the buffers are made for."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        types = {name: self._engine.get_tensor_dtype(name).name for name in names}
        if types != _TYPES:
            raise BackendError(
                f"{engine.path} has the tensors {types}",
                expected=str(_TYPES),
                cure="build the engine again with python -m export.build_engine",
            )

    def _allocate(self) -> None:
        """Buffers for the largest batch, on both sides, and their addresses to the context."""
        largest = (self.max_batch, *self._shape)
        self._must(self._context.set_input_shape("image", largest), f"set_input_shape {largest}")
        self._host: dict[str, cuda.PinnedArray] = {}
        self._buffers: dict[str, cuda.DeviceBuffer] = {}
        for name in _TYPES:
            shape = tuple(int(side) for side in self._context.get_tensor_shape(name))
            dtype = np.uint8 if name == "image" else np.float32
            host = self._memory.enter_context(cuda.PinnedArray(shape, dtype))
            buffer = self._memory.enter_context(cuda.DeviceBuffer(host.array.nbytes))
            self._must(self._context.set_tensor_address(name, buffer.pointer), f"set_tensor_address {name}")
            self._host[name], self._buffers[name] = host, buffer

    def _must(self, result: Any, what: str) -> Any:
        """TensorRT answers None or False where it fails, and says why only in its log."""
        if result is None or result is False:
            raise BackendError(
                f"{self.name}: {what} failed:\n    {self._log.text()}",
                expected="success",
                cure="the lines above say why; python -m runtime doctor shows what is installed",
            )
        return result
