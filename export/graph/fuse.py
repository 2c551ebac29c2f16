"""The module that is exported: uint8 image in, embedding and mask out; and its outputs in torch."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from runtime.package.reference import Reference
from train.nem import NEM

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
"""The precisions a package can hold, each a graph of its own with explicit types, and the type inside.

bf16 is for GPUs from compute capability 8.0 and encoders that leave fp16's range.  An int8 graph is the half
module with quantise–dequantise pairs (`export.int8.for_tensorrt`); onnxruntime has a graph of its own.
"""


class Fused(nn.Module):
    """Cast, transpose, normalise, encoder, masker: one graph with the contract of the package.

    Args:
        nem: is copied, not changed.
        precision: of `DTYPES`: the type inside.  The boundary is uint8 in, float32 out.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, nem: NEM, *, precision: str) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (nem.encoder.input.mean, nem.encoder.input.std)
        )
        self.nem = copy.deepcopy(nem)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.to(DTYPES[precision]).eval()

    def forward(self, image: Tensor, toward: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, 3) RGB → embedding float32 (N, D), mask float32 (N, H, W) in [0, 1].

        Args:
            toward: float32 (N, D), targets; a row of zeros is the image itself.
        """
        embedding, mask = self.nem(self.prepare(image), toward)
        return embedding.float(), mask

    def prepare(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → normalised (N, 3, H, W) in the precision inside."""
        # Cast before transposing: TensorRT refuses to transpose uint8.  Contiguous, because channels-last
        # strides would reach the global pooling, which the exporter then writes as a gather.
        return image.to(self.scale.dtype).permute(0, 3, 1, 2).contiguous() * self.scale + self.shift


def torch_reference(nem: NEM, images: np.ndarray) -> Reference:
    """The outputs of torch for the images; and for targets, if the masker takes them.

    The target is the image's own embedding for every second image, and that of the next image for the others.
    """
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
    with torch.inference_mode():
        given = [torch.from_numpy(array).split(batch) for array in (images, toward) if array is not None]
        parts = [fused(*part) for part in zip(*given, strict=True)]
    embedding, mask = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return embedding, mask
