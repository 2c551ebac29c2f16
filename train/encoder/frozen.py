"""FrozenEncoder: any vision encoder as one pass that gives the embedding and the feature pyramid.

Frozen means that no parameter takes a gradient and that the whole encoder is always in eval mode, so that
BatchNorm statistics stay and dropout is off, also if the surrounding module is put into training mode.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.package.records import EncoderRecord, InputRecord


class FrozenEncoder(nn.Module):
    """Φ: embedding and pyramid of a normalised image, in one pass.

    Args:
        model: its forward takes float (N, 3, H, W), normalised, and returns (embedding (N, D),
            pyramid: list of (N, C_i, h_i, w_i), shallow to deep).
        id, embedding, license: fields of its `EncoderRecord` in the manifest.
        input: how an image becomes its input.
        l2_normalize: scale the embedding to unit length.
        fingerprint: sha256 of the weights as they were loaded, if they were changed since (a resized
            position table); computed from `model` otherwise.

    Raises:
        InputError: a pass on one image gives something else than an embedding and a pyramid.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        id: str,
        embedding: str,
        input: InputRecord,
        l2_normalize: bool = False,
        license: str = "unknown",
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()
        self.input = input
        for name, values in (("mean", input.mean), ("std", input.std)):  # of pixels from 0 to 255
            self.register_buffer(
                name, 255 * torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False
            )
        self.l2_normalize = l2_normalize
        fingerprint = fingerprint or weights_fingerprint(model)
        with torch.no_grad():
            vector, pyramid = self(torch.zeros(1, 3, input.height, input.width))
        _check_outputs(id, vector, pyramid)
        self.channels = tuple(p.shape[1] for p in pyramid)
        self.sizes = tuple((p.shape[2], p.shape[3]) for p in pyramid)
        self.record = EncoderRecord(
            id=id,
            fingerprint=fingerprint,
            embedding=embedding,
            l2_normalized=l2_normalize,
            dimension=vector.shape[1],
            license=license,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Normalised images (N, 3, H, W) → embedding (N, D), pyramid [(N, C_i, h_i, w_i)]."""
        embedding, pyramid = self.model(x)
        if self.l2_normalize:
            embedding = nn.functional.normalize(embedding.float(), dim=1)
        return embedding, list(pyramid)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in eval mode; `mode` is ignored."""
        return super().train(False)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) → normalised float32 (N, 3, H, W), channels-last in memory.

        The exported graph computes the same.
        """
        return images.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)


def _check_outputs(id: str, vector: Tensor, pyramid: list[Tensor]) -> None:
    """Raise InputError unless these are an embedding (1, D) and feature maps, shallow to deep."""
    if vector.ndim != 2 or not pyramid or any(p.ndim != 4 for p in pyramid):
        raise InputError(
            f"{id} returned an embedding {tuple(vector.shape)} and a pyramid of "
            f"{[tuple(p.shape) for p in pyramid]}",
            expected="an embedding (N, D) and feature maps (N, C, h, w), shallow to deep",
            cure="pool the embedding to one vector, and reshape tokens to maps, in your module",
        )
    if any(p.shape[2] < q.shape[2] or p.shape[3] < q.shape[3] for p, q in pairwise(pyramid)):
        raise InputError(
            f"{id} returned feature maps of {[tuple(p.shape[2:]) for p in pyramid]}",
            expected="shallow to deep: none larger than the one before it",
            cure="return them in the other order",
        )


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the state dict; independent of the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.view(torch.uint8).numpy().data if array.ndim else array.numpy().tobytes())
    return digest.hexdigest()
