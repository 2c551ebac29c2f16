"""The parity gate: nothing enters a package without passing it.

The reference is the torch module in float32 on the reference images.  Against it stand the ONNX graphs
as onnxruntime runs them on the CPU, and, for fp16 and bf16, the torch module in half precision: onnxruntime
computes half graphs in float32 on a CPU, so it can only vouch for the graph, not for its arithmetic.
What is measured, and the negative control, is in `runtime.parity`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from export.run import run_model, widened
from runtime.errors import ParityError
from runtime.parity import Parity
from runtime.verify import Reference, limits_for

if TYPE_CHECKING:
    from export.fuse import Fused


def gate(
    reference: Reference, name: str, embedding: np.ndarray, mask: np.ndarray, *, precision: str
) -> Parity:
    """Hold outputs for the reference's images against it.

    Args:
        name: what was compared, for the message.
        precision: whose limits apply, see `runtime.parity.LIMITS`.

    Raises:
        ParityError: beyond the limits, with the likely cause.
    """
    parity = reference.compare(embedding, mask, precision=precision)
    if failures := parity.failures(limits_for(precision)):
        raise ParityError(
            f"{name}: " + "; ".join(failures),
            expected="outputs within the gate",
            cure=_cure(parity, precision),
        )
    return parity


def run_torch(
    fused: Fused, images: np.ndarray, toward: np.ndarray | None = None, *, batch: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) → embedding (N, D), mask (N, H, W), both float32, by the torch module.

    Args:
        toward: float32 (N, D), targets, if the masker takes them.
    """
    import torch

    with torch.inference_mode():
        given = [torch.from_numpy(array).split(batch) for array in (images, toward) if array is not None]
        parts = [fused(*part) for part in zip(*given, strict=True)]
    embedding, mask = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return embedding, mask


def run_onnx(
    path: Path, images: np.ndarray, toward: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same by onnxruntime on the CPU, one image at a time; bfloat16 by its float32 twin."""
    model = onnx.load(str(path))
    if any(t.data_type == onnx.TensorProto.BFLOAT16 for t in model.graph.initializer):
        model = widened(model)
    return run_model(model, images, toward)


def _cure(parity: Parity, precision: str) -> str:
    if not parity.control_failed:
        return "give reference images that differ more, with --reference FOLDER"
    if precision == "fp32":
        return (
            "an operator of this graph is exported or simplified wrongly: build with --no-simplify; if that "
            "does not help, try another version of torch, onnx or onnxruntime"
        )
    if precision == "int8":
        return (
            "eight bits lose too much: give more and more typical images with --calibration FOLDER, or build "
            "with --precision auto"
        )
    return (
        "half precision loses too much: build with --precision auto or with --precision fp32, or give more "
        "typical --reference images"
    )
