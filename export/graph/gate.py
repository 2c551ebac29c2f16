"""The parity gate: nothing enters a package without passing it.

The reference is the torch module in float32 on the reference images.  The ONNX graphs are compared with it as
onnxruntime runs them on the CPU.  For fp16 and bf16 the torch module in half precision is compared too:
onnxruntime computes half graphs in float32 on a CPU, so it checks the graph and not its arithmetic.
The measures and the negative control are in `runtime.package.parity`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from export.graph.refusals import refusal
from export.graph.session import run_model, widened
from runtime.errors import ParityError
from runtime.package.parity import Parity
from runtime.package.reference import Reference, limits_for

if TYPE_CHECKING:
    from export.graph.fuse import Fused
    from train.nem import NEM


def gate(
    reference: Reference, name: str, embedding: np.ndarray, mask: np.ndarray, *, precision: str
) -> Parity:
    """Compare outputs for the reference's images with the reference.

    Args:
        name: what was compared, for the message.
        precision: its limits apply, see `runtime.package.parity.LIMITS`.

    Raises:
        ParityError: beyond the limits, with the likely cause.
    """
    parity = reference.compare(embedding, mask, precision=precision)
    if parity.failures(limits_for(precision)):
        raise refusal(
            ParityError,
            "gate",
            compared=name,
            precision=precision,
            parity=parity.to_json(),
            expected="outputs within the gate",
            cure=_cure(parity, precision),
        )
    return parity


def torch_reference(nem: NEM, images: np.ndarray) -> Reference:
    """The outputs of torch for the images; and for targets, if the masker takes them.

    The target is the image's own embedding for every second image, and that of the next image for the others.
    """
    from export.graph.fuse import Fused

    fused = Fused(nem, precision="fp32")
    plain = Reference(images, *run_torch(fused, images))
    if not nem.takes_target:
        return plain
    others = np.arange(len(images))[:, None] % 2 == 1
    toward = np.where(others, np.roll(plain.embedding, -1, axis=0), plain.embedding)
    return plain._replace(toward=toward, toward_mask=run_torch(fused, images, toward)[1])


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
    """Run a graph in onnxruntime on the CPU, one image at a time; a bfloat16 graph as its float32 copy."""
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
