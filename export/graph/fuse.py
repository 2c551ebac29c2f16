"""The module that is exported: takes a uint8 image, returns embedding and mask."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from train.nem import NEM

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
"""Precision → type inside.  An int8 graph is made from the half module: other layers stay half."""


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
