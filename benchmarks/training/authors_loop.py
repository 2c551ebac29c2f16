"""The authors' training loop, made again in our own words, to compare with (their code has no licence file).

What is known of it is in their released code for NEM-U (NEM_T): the decoder with the image as a skip, the
contrastive objective with zero fill, and the encoder run four times a step: twice on the clean image (for
the decoder, and for the reference), on the masked image, and on its complement.  It is written as one
would write it first: float32, NCHW, eager, every image read and normalised in turn.  Their optimiser,
Prodigy, and its four accumulated batches are left out: each step ends with a plain AdamW, as ours does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.training.stopwatch import Stopwatch
from train.data import Photographs, Steps
from train.encoder.frozen import FrozenEncoder
from train.masker import UNetMasker

EPSILON = 1e-6


class AuthorsLoop:
    """Their decoder, objective and step.

    Args:
        encoder: as its owner has it; it is moved to the device.
    """

    def __init__(self, encoder: FrozenEncoder, *, device: torch.device, learning_rate: float = 3e-3) -> None:
        self.encoder = encoder.to(device)
        self.masker = UNetMasker(
            channels=encoder.channels,
            sizes=encoder.sizes,
            image_size=(encoder.input.height, encoder.input.width),
            image_skip=True,
        ).to(device)
        self.device = device
        self.optimizer = torch.optim.AdamW(self.masker.parameters(), lr=learning_rate, weight_decay=0.01)

    def run(self, images: Photographs, *, steps: int, batch_size: int, stopwatch: Stopwatch) -> None:
        """Train; the stopwatch is told of every stage and of the end of every step."""
        stopwatch.start()
        for x in loader(images, self.encoder, steps=steps, batch_size=batch_size):
            batch = x.to(self.device)
            stopwatch.mark("loading")
            loss = self.loss(batch)
            self.optimizer.zero_grad()
            stopwatch.mark("mask, fill and loss")
            loss.backward()
            stopwatch.mark("backward: masker")
            self.optimizer.step()
            stopwatch.end_step()

    def loss(self, x: Tensor) -> Tensor:
        """L = ½·M̄ + 4·D⁺ − D⁻·(D⁺ + ε) + ε of normalised images (N, 3, H, W)."""
        _, pyramid = self.encoder(x)
        mask = self.masker(pyramid, x).sigmoid()
        reference, _ = self.encoder(x)
        kept, _ = self.encoder(mask * x)
        complement, _ = self.encoder((1 - mask) * x)
        near, apart = _distance(reference, kept), _distance(kept, complement)
        return mask.mean() / 2 + 4 * near - apart * (near + EPSILON) + EPSILON


def _distance(u: Tensor, v: Tensor) -> Tensor:
    """(1 − mean cos(u, v)) / 2; (N, D), (N, D) → a scalar."""
    return (1 - nn.functional.cosine_similarity(u, v, dim=1).mean()) / 2


def loader(images: Photographs, encoder: FrozenEncoder, *, steps: int, batch_size: int) -> Iterator[Tensor]:
    """Normalised float32 batches (N, 3, H, W), read when they are asked for."""
    batches = Steps(0, steps, batch_size)
    return iter(DataLoader(_Normalised(images, encoder), batch_sampler=batches))


class _Normalised(Dataset[Tensor]):
    def __init__(self, images: Photographs, encoder: FrozenEncoder) -> None:
        self.images = images
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (encoder.input.mean, encoder.input.std)
        )

    def __getitem__(self, position: int) -> Tensor:
        pixels = self.images[position][0].permute(2, 0, 1).contiguous()
        return (pixels.float() / 255 - self.mean) / self.std
