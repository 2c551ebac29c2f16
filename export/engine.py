"""ONNX → TensorRT engine, every flavour, on one strongly typed path.

The same calls serve TensorRT 10.0 to 11.4 and TensorRT-RTX: precision is in the graph, the network is
strongly typed, names are used instead of numbers.  What was asked for is not believed: types and names
are read back from the parsed network before the build.

TensorRT-RTX builds on a machine without a GPU.  The classic library needs the device it builds for.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from export.layers import PRECISIONS, Layer, check_precision, check_turing, weighted_layers
from export.progress import Progress, interruptible, monitor
from export.targets import PORTABLE, TURING, can
from export.timing_cache import TimingCache
from runtime.backends import cuda
from runtime.backends.tensorrt import RTX_CAPABILITIES
from runtime.backends.tensorrt_library import FLAVOURS, Log, Validity, library, logger, validity
from runtime.errors import ExportError, InputError
from runtime.manifest import OUTPUTS, TOWARD

__all__ = ["FLAVOURS", "BuiltEngine", "Validity", "build", "validity"]

Signature = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype, shape); -1 where an axis is free."""

_INPUTS = {"image": "UINT8", TOWARD: "FLOAT"}
_INTEGRATED_SHARE = 4
"""On a Jetson without a limit, TensorRT 10.3 asks for more memory than there is (NVIDIA/TensorRT 4258)."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A plan and everything that decides where it can run; the sidecar is made from it."""

    plan: bytes
    """The serialised engine, nothing prepended."""
    flavour: str
    version: str
    """Exact version of the library that built it."""
    compute_capability: str
    """Such as `8.7`, or `portable`; an RTX plan is finished on the GPU that loads it."""
    precision: str
    """As read back from the parsed network."""
    tensor_types: dict[str, int]
    """How many of the network's tensors have which type."""
    inputs: Signature
    outputs: Signature
    batch: tuple[int, int, int]
    """min, opt, max of the optimisation profile."""
    flags: dict[str, Any]
    """Build settings that change the engine."""
    build_seconds: float


def build(
    onnx: Path,
    *,
    flavour: str,
    batch: tuple[int, int, int],
    precision: str,
    capability: str | None = None,
    workspace_bytes: int | None = None,
    inputs: tuple[str, ...] = ("image",),
    outputs: tuple[str, ...] = OUTPUTS,
    progress: bool = True,
) -> BuiltEngine:
    """Compile an explicitly typed graph.

    Args:
        onnx: input `image` uint8 (N, H, W, 3), for targets also `toward` float32 (N, D), outputs float32;
            external weights beside it are found by their path.
        flavour: one of `FLAVOURS`.
        batch: min, opt, max of N.  The engine takes every N between, and is fastest at opt.
        precision: of `PRECISIONS`, which the graph must already be; it is checked, not converted.
        capability: compute capability of the GPU to build for, or `portable`; None is `portable` for RTX,
            and for the classic library this device's, the only one it can build for.
        workspace_bytes: limit of the scratch memory, in the engine and while kernels are timed; None leaves
            it to the library, but where GPU and CPU share their memory it is a quarter of that.
        inputs, outputs: which the graph must have, and no others.
        progress: show a bar on stderr.

    Raises:
        InputError: an option that cannot be used.
        BackendUnavailable: the flavour's library, or the GPU that it builds on, is not here.
        ExportError: the graph is refused, has other names or types than asked for, or does not build.
        KeyboardInterrupt: Ctrl-C, after the build was stopped.
    """
    _check_options(onnx, batch, precision)
    trt = library(flavour)
    # Classic TensorRT times its kernels on the device: probe it before a builder needs it.
    gpu = None if flavour == "rtx" else cuda.device()
    capability = capability or (gpu.compute_capability if gpu else PORTABLE)
    _check_capability(flavour, capability, precision, gpu)
    log = logger(trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx, log)
    taken, given = _signature(network, onnx, inputs, outputs)
    weighted = weighted_layers(trt, network)
    check_precision(weighted, precision, onnx)
    if flavour == "rtx" and capability == TURING:
        check_turing(weighted, onnx)
    workspace_bytes = _scratch_limit(workspace_bytes, gpu)
    config = _configure(trt, builder, taken, batch, workspace_bytes, onnx)
    _aim(trt, config, flavour, capability)
    if gpu is not None and workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, workspace_bytes)

    started = time.monotonic()
    plan, how = _plan(trt, builder, network, config, log, gpu, show=progress)
    return BuiltEngine(
        plan=plan,
        flavour=flavour,
        version=str(trt.__version__),
        compute_capability=capability,
        precision=precision,
        tensor_types=_tensor_types(network),
        inputs=taken,
        outputs=given,
        batch=batch,
        flags={**_flags(trt, config, weighted, workspace_bytes, log), **how},
        build_seconds=time.monotonic() - started,
    )


def _check_options(onnx: Path, batch: tuple[int, int, int], precision: str) -> None:
    low, best, high = batch
    if not 1 <= low <= best <= high:
        raise InputError(
            f"batch {low}:{best}:{high}",
            expected="min:opt:max with 1 <= min <= opt <= max",
            cure="for example --batch 1:1:8",
        )
    if precision not in PRECISIONS:
        raise InputError(
            f"precision {precision!r}",
            expected="one of " + ", ".join(PRECISIONS),
            cure="choose one; the ONNX file must hold that precision",
        )
    if not onnx.is_file():
        raise InputError(
            f"{onnx} is not a file",
            expected="an ONNX file",
            cure="export it first: python -m export.build_engine",
        )


def _check_capability(flavour: str, capability: str, precision: str, gpu: cuda.DeviceInfo | None) -> None:
    """Refuse here what the builder would refuse in its own words, minutes later."""
    known = (gpu.compute_capability,) if gpu else (PORTABLE, *RTX_CAPABILITIES)
    if capability not in known:
        raise InputError(
            f"an engine of flavour {flavour} for compute capability {capability}",
            expected="one of " + ", ".join(known),
            cure="build on the device itself" if gpu else "for other GPUs: --target tensorrt on the device",
        )
    if not can(capability, precision):
        raise InputError(
            f"precision {precision} for compute capability {capability}",
            expected=f"a GPU that computes in {precision}: 8.0 or newer for bf16",
            cure="--precision fp16, or leave that GPU out: --target rtx-portable",
        )


def _aim(trt: ModuleType, config: Any, flavour: str, capability: str) -> None:
    """Build for that GPU alone.  Classic TensorRT always does; portable is RTX's own choice."""
    if flavour != "rtx":
        return
    if capability != PORTABLE:
        config.num_compute_capabilities = 1
        name = "SM" + capability.replace(".", "")
        config.set_compute_capability(trt.ComputeCapability.__members__[name], 0)


def _parse(trt: ModuleType, network: Any, onnx: Path, log: Log) -> None:
    """Fill `network` from the file, or raise with everything that the parser says."""
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node()} {error.node_name()} ({error.node_operator()})"
        reasons.append(f"{where}: {error.desc()}".replace("\n", "\n      "))
    raise ExportError(
        f"TensorRT's parser refuses {onnx.name}:\n    " + "\n    ".join(reasons or [log.text()]),
        expected="a graph of operators and types that it knows",
        cure="change the named nodes at export: for uint8 images cast before transposing, no antialiased"
        " Resize, equal types on both inputs of an addition",
    )


def _signature(
    network: Any, onnx: Path, wanted_inputs: tuple[str, ...], wanted_outputs: tuple[str, ...]
) -> tuple[Signature, Signature]:
    """Names, types and shapes of inputs and outputs, or `ExportError` if they break the contract."""
    inputs = _describe(network.get_input(i) for i in range(network.num_inputs))
    outputs = _describe(network.get_output(i) for i in range(network.num_outputs))
    contract = {name: _INPUTS[name] for name in wanted_inputs}, dict.fromkeys(wanted_outputs, "FLOAT")
    for kind, found, wanted in zip(("inputs", "outputs"), (inputs, outputs), contract, strict=True):
        types = {name: dtype for name, (dtype, _) in found.items()}
        if types != wanted:
            raise ExportError(
                f"{onnx.name} has the {kind} {types}",
                expected=f"exactly {wanted}",
                cure="export it with export.fuse: uint8 image in (and float32 toward, for targets), float32 "
                "embedding and mask out",
            )
    return inputs, outputs


def _describe(tensors: Iterator[Any]) -> Signature:
    return {t.name: (t.dtype.name, tuple(int(side) for side in t.shape)) for t in tensors}


def _tensor_types(network: Any) -> dict[str, int]:
    """How many tensors of the network have which type: inputs, and outputs of every layer."""
    types = [network.get_input(i).dtype.name for i in range(network.num_inputs)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types += [layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
    return dict(sorted(collections.Counter(types).items()))


def _configure(
    trt: ModuleType,
    builder: Any,
    inputs: Signature,
    batch: tuple[int, int, int],
    workspace_bytes: int | None,
    onnx: Path,
) -> Any:
    """A builder configuration with one optimisation profile over the batch axis of every input."""
    for name, (_, shape) in inputs.items():
        free = shape[0] == -1
        if -1 in shape[1:] or not (free or set(batch) == {shape[0]}):
            what = "images" if name == "image" else name
            raise ExportError(
                f"{onnx.name} takes {what} of shape {shape}, and the batch was to be "
                f"{':'.join(map(str, batch))}",
                expected="a free first axis (-1) and fixed others, or a batch equal to the fixed first axis",
                cure="export with a dynamic batch axis and a fixed image size",
            )
    config = builder.create_builder_config()
    # TF32 has fp16's ten bits of mantissa: neither fp32 engines nor float heads are to compute in it.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = builder.create_optimization_profile()
    for name, (_, shape) in inputs.items():
        profile.set_shape(name, *((n, *shape[1:]) for n in batch))
    config.add_optimization_profile(profile)
    return config


def _flags(
    trt: ModuleType,
    config: Any,
    weighted: list[Layer],
    workspace_bytes: int | None,
    log: Log,
) -> dict[str, Any]:
    """What changes the engine, or tells how it came out, for the sidecar."""
    return {
        "strongly_typed": True,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "optimization_level": int(config.builder_optimization_level),
        "workspace_bytes": workspace_bytes,
        "weighted_layers": dict(collections.Counter(layer.dtype for layer in weighted)),
        "warnings": list(log.lines),
    }


def _scratch_limit(asked: int | None, gpu: cuda.DeviceInfo | None) -> int | None:
    if asked is None and gpu is not None and gpu.integrated:
        return gpu.memory_bytes // _INTEGRATED_SHARE
    return asked


def _resize_activations(trt: ModuleType, config: Any) -> bool:
    """Have the engine say what memory a smaller batch needs, from TensorRT 10.10 on: lanes ask for it."""
    if not hasattr(trt, "PreviewFeature"):
        return False
    if not hasattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10"):
        return False
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    return True


def _require_user_allocation(trt: ModuleType, config: Any, required: bool) -> bool:
    """Whether the engine must allocate nothing while it runs: RTX records no other in a CUDA graph."""
    if not hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        return False
    change = config.set_flag if required else config.clear_flag
    change(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    return required


def _plan(
    trt: ModuleType,
    builder: Any,
    network: Any,
    config: Any,
    log: Log,
    gpu: cuda.DeviceInfo | None,
    *,
    show: bool,
) -> tuple[bytes, dict[str, Any]]:
    """The plan, and for the sidecar how its memory and its kernels' times were had.

    Args:
        gpu: that it is built on and for; None for TensorRT-RTX, which needs none.
    """
    how: dict[str, Any] = {}
    if gpu is not None:
        how["resizable"] = _resize_activations(trt, config)
    capturable = _require_user_allocation(trt, config, True)
    with TimingCache(trt, config, gpu, say=show) as cache:
        plan = _compile(trt, builder, network, config, log, show=show)
        if plan is None and capturable:
            capturable = _require_user_allocation(trt, config, False)
            plan = _compile(trt, builder, network, config, log, show=show)
    if gpu is None:
        how["require_user_allocation"] = capturable
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} could not build the engine:\n    {log.text()}",
            expected="a serialised engine",
            cure="the lines above name the layer or the resource: a larger workspace, or a smaller --batch",
        )
    return plan, {**how, "timing_cache": cache.state}


def _compile(
    trt: ModuleType, builder: Any, network: Any, config: Any, log: Log, *, show: bool
) -> bytes | None:
    """The plan, or None if it could not be built.  Ctrl-C stops the build at its next step."""
    cancelled = threading.Event()
    with Progress(show=show, cancelled=cancelled) as bar:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = monitor(trt, bar)
        plan = interruptible(lambda: builder.build_serialized_network(network, config), cancelled, bar.tick)
    return None if plan is None else bytes(plan)
