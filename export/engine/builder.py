"""ONNX → TensorRT engine, every flavour, in one strongly typed way.

The same calls serve TensorRT 10.0 to 11.4 and TensorRT-RTX: the graph holds the precision, the network is
strongly typed, and tensors are found by name.  Types and names are read back from the parsed network before
the build, and compared with what was asked for.

TensorRT-RTX builds on a machine without a GPU.  The classic library needs the device it builds for.
"""

from __future__ import annotations

import collections
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engine.monitor import Progress, interruptible, monitor
from export.engine.network import Library, Network, Signature, read_network
from export.engine.timing_cache import timing_cache
from export.graph.gate import refusal
from export.targets import PORTABLE, can
from runtime.backends import cuda
from runtime.backends.tensorrt.library import library, logger
from runtime.backends.tensorrt.selection import RTX_CAPABILITIES
from runtime.errors import ExportError, InputError
from runtime.package.manifest import OUTPUTS

_INTEGRATED_SHARE = 4
"""On a Jetson without a limit, TensorRT 10.3 asks for more memory than there is (NVIDIA/TensorRT 4258)."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A plan, and what its sidecar says of it."""

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
        onnx: takes `image` uint8 (N, H, W, 3), for targets also `toward` float32 (N, D); returns float32.
        flavour: one of `runtime.backends.tensorrt.library.FLAVOURS`.
        batch: min, opt, max of N.  The engine takes every N between, and is fastest at opt.
        precision: of `export.engine.network.PRECISIONS`; that of the graph, which is checked, not converted.
        capability: compute capability to build for, or `portable`; None: `portable` for RTX, else this GPU's.
        workspace_bytes: limit of the scratch memory, in the engine and while kernels are timed; None leaves
            it to the library, but where GPU and CPU share their memory it is a quarter of that.
        inputs, outputs: which the graph must have, and no others.
        progress: show a bar on stderr.

    Raises:
        InputError: an unknown flavour, or a compute capability that it cannot build for.
        BackendUnavailable: the library, or the GPU that it builds on, is not here.
        ExportError: the graph is refused, has other names or types than asked for, or does not build.
        KeyboardInterrupt: Ctrl-C, after the build was stopped.
    """
    opened = _open_library(flavour, capability, precision)
    network = read_network(opened, onnx, inputs=inputs, outputs=outputs, precision=precision)
    workspace_bytes = scratch_limit(workspace_bytes, opened.gpu)
    config = configure(opened, network.inputs, batch, workspace_bytes, onnx)
    plan, memory_and_timings, seconds = _plan(opened, network.definition, config, show=progress)
    return BuiltEngine(
        plan=plan,
        flavour=flavour,
        version=str(opened.trt.__version__),
        compute_capability=opened.capability,
        precision=precision,
        tensor_types=network.tensor_types(),
        inputs=network.inputs,
        outputs=network.outputs,
        batch=batch,
        flags={**flags(opened, config, network, workspace_bytes), **memory_and_timings},
        build_seconds=seconds,
    )


def _open_library(flavour: str, capability: str | None, precision: str) -> Library:
    """The library and its builder, for a device that it can build for; raises as `build`."""
    trt = library(flavour)
    # Classic TensorRT times its kernels on the device: find it before the builder needs it.
    gpu = None if flavour == "rtx" else cuda.device()
    capability = capability or (gpu.compute_capability if gpu else PORTABLE)
    _check_capability(flavour, capability, precision, gpu)
    log = logger(trt)
    log.lines.clear()
    return Library(trt, flavour, log, trt.Builder(log), gpu, capability)


def _check_capability(flavour: str, capability: str, precision: str, gpu: cuda.DeviceInfo | None) -> None:
    """Refuse now what the builder would refuse minutes later."""
    known = (gpu.compute_capability,) if gpu else (PORTABLE, *RTX_CAPABILITIES)
    if capability not in known:
        raise InputError(
            f"an engine of flavour {flavour} for compute capability {capability}",
            expected="one of " + ", ".join(known),
            cure="build on the device itself" if gpu else "for other GPUs: --target tensorrt on the device",
        )
    if not can(capability, precision):
        raise refusal(
            InputError,
            "lacks",
            precision=precision,
            capability=capability,
            expected=f"a GPU that computes in {precision}: 8.0 or newer for bf16",
            cure="--precision fp16, or leave that GPU out: --target rtx-portable",
        )


def _plan(opened: Library, network: Any, config: Any, *, show: bool) -> tuple[bytes, dict[str, Any], float]:
    """Compile.

    Returns:
        The plan; for the sidecar, how the engine's memory is allocated and where timings came from; and the
        seconds that the build took.
    """
    started = time.monotonic()
    classic = opened.gpu is not None
    how: dict[str, Any] = {"resizable": resize_activations(opened, config)} if classic else {}
    capturable = require_user_allocation(opened, config, True)
    with timing_cache(opened.trt, config, opened.gpu, say=show) as timings:
        plan = _compile(opened, network, config, show=show)
        if plan is None and capturable:
            capturable = require_user_allocation(opened, config, False)
            plan = _compile(opened, network, config, show=show)
    if not classic:
        how["require_user_allocation"] = capturable
    if plan is None:
        raise ExportError(
            f"TensorRT {opened.trt.__version__} could not build the engine:\n    {opened.log.text()}",
            expected="a serialised engine",
            cure="the lines above name the layer or the resource: a larger workspace, or a smaller --batch",
        )
    return plan, {**how, "timing_cache": timings}, time.monotonic() - started


def _compile(opened: Library, network: Any, config: Any, *, show: bool) -> bytes | None:
    """The plan, or None if it could not be built.  Ctrl-C stops the build at its next step."""
    trt, builder, cancelled = opened.trt, opened.builder, threading.Event()
    with Progress(show=show, cancelled=cancelled) as bar:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = monitor(trt, bar)
        plan = interruptible(lambda: builder.build_serialized_network(network, config), cancelled, bar.tick)
    return None if plan is None else bytes(plan)


def configure(
    library: Library, inputs: Signature, batch: tuple[int, int, int], workspace_bytes: int | None, onnx: Path
) -> Any:
    """A builder configuration with one optimisation profile over the batch axis of every input.

    Raises:
        ExportError: an input's shape does not allow that batch.
    """
    _check_shapes(inputs, batch, onnx)
    trt = library.trt
    config = library.builder.create_builder_config()
    # TF32 has fp16's ten bits of mantissa: fp32 engines and float heads must not compute in it.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = library.builder.create_optimization_profile()
    for name, (_, shape) in inputs.items():
        profile.set_shape(name, *((n, *shape[1:]) for n in batch))
    config.add_optimization_profile(profile)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        if library.gpu is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, workspace_bytes)
    if library.flavour == "rtx" and library.capability != PORTABLE:
        config.num_compute_capabilities = 1
        name = "SM" + library.capability.replace(".", "")
        config.set_compute_capability(trt.ComputeCapability.__members__[name], 0)
    return config


def _check_shapes(inputs: Signature, batch: tuple[int, int, int], onnx: Path) -> None:
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


def scratch_limit(asked: int | None, gpu: cuda.DeviceInfo | None) -> int | None:
    """Bytes of scratch memory: what was asked for; else a quarter where GPU and CPU share their memory."""
    if asked is None and gpu is not None and gpu.integrated:
        return gpu.memory_bytes // _INTEGRATED_SHARE
    return asked


def flags(library: Library, config: Any, network: Network, workspace_bytes: int | None) -> dict[str, Any]:
    """Settings that change the engine, and the builder's warnings, for the sidecar."""
    trt = library.trt
    return {
        "strongly_typed": True,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "optimization_level": int(config.builder_optimization_level),
        "workspace_bytes": workspace_bytes,
        "weighted_layers": dict(collections.Counter(layer.dtype for layer in network.weighted)),
        "warnings": list(library.log.lines),
    }


def resize_activations(library: Library, config: Any) -> bool:
    """Let the engine report the memory that a smaller batch needs; False before TensorRT 10.10.

    Lanes ask for it.
    """
    trt = library.trt
    if not hasattr(trt, "PreviewFeature"):
        return False
    if not hasattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10"):
        return False
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    return True


def require_user_allocation(library: Library, config: Any, required: bool) -> bool:
    """Forbid the engine to allocate while it runs; TensorRT-RTX records only such engines in a CUDA graph.

    Returns:
        Whether it is forbidden; False if the library has no such flag.
    """
    trt = library.trt
    if not hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        return False
    change = config.set_flag if required else config.clear_flag
    change(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    return required
