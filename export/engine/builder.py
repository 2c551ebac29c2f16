"""ONNX → TensorRT engine, every flavour, in one strongly typed way.

The same calls serve TensorRT 10.0 to 11.4 and TensorRT-RTX: the graph holds the precision, the network is
strongly typed, and tensors are found by name.  Types and names are read back from the parsed network before
the build, and compared with what was asked for.

TensorRT-RTX builds on a machine without a GPU.  The classic library needs the device it builds for.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engine.builder_config import (
    configure,
    flags,
    require_user_allocation,
    resize_activations,
    scratch_limit,
)
from export.engine.layers import PRECISIONS
from export.engine.monitor import Progress, interruptible, monitor
from export.engine.network import Library, Signature, read_network
from export.engine.timing_cache import TimingCache
from export.graph.refusals import refusal
from export.targets import PORTABLE, can
from runtime.backends import cuda
from runtime.backends.tensorrt.library import FLAVOURS, Validity, library, logger, validity
from runtime.backends.tensorrt.selection import RTX_CAPABILITIES
from runtime.errors import ExportError, InputError
from runtime.package.manifest import OUTPUTS

__all__ = ["FLAVOURS", "BuiltEngine", "Validity", "build", "validity"]


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
        flavour: one of `FLAVOURS`.
        batch: min, opt, max of N.  The engine takes every N between, and is fastest at opt.
        precision: of `PRECISIONS`, which the graph must already be; it is checked, not converted.
        capability: compute capability to build for, or `portable`; None: `portable` for RTX, else this GPU's.
        workspace_bytes: limit of the scratch memory, in the engine and while kernels are timed; None leaves
            it to the library, but where GPU and CPU share their memory it is a quarter of that.
        inputs, outputs: which the graph must have, and no others.
        progress: show a bar on stderr.

    Raises:
        InputError: an option that cannot be used.
        BackendUnavailable: the library, or the GPU that it builds on, is not here.
        ExportError: the graph is refused, has other names or types than asked for, or does not build.
        KeyboardInterrupt: Ctrl-C, after the build was stopped.
    """
    _check_options(onnx, batch, precision)
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
            cure="export it first: nemu build",
        )


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
    with TimingCache(opened.trt, config, opened.gpu, say=show) as cache:
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
    return plan, {**how, "timing_cache": cache.state}, time.monotonic() - started


def _compile(opened: Library, network: Any, config: Any, *, show: bool) -> bytes | None:
    """The plan, or None if it could not be built.  Ctrl-C stops the build at its next step."""
    trt, builder, cancelled = opened.trt, opened.builder, threading.Event()
    with Progress(show=show, cancelled=cancelled) as bar:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = monitor(trt, bar)
        plan = interruptible(lambda: builder.build_serialized_network(network, config), cancelled, bar.tick)
    return None if plan is None else bytes(plan)
