"""The settings of one TensorRT build: the batch profile, the memory limit, the GPU, and build flags."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from export.engine.network import Library, Network, Signature
from export.targets import PORTABLE
from runtime.backends import cuda
from runtime.errors import ExportError

_INTEGRATED_SHARE = 4
"""On a Jetson without a limit, TensorRT 10.3 asks for more memory than there is (NVIDIA/TensorRT 4258)."""


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
