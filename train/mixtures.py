"""Mixtures of two images by a known region: what a target is worth, and whether masks follow it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from train.config import TrainConfig
from train.encoder.frozen import FrozenEncoder
from train.nem import NEM
from train.objective import Batch, region_worth
from train.occlusion import make_fill
from train.pairs import regions


class Training(Protocol):
    """What is used of `train.lightning_module.MaskerTraining`."""

    config: TrainConfig
    frozen: FrozenEncoder
    nem: NEM
    centre: Tensor

    @property
    def device(self) -> torch.device: ...
    def embed(self, x: Tensor) -> Tensor: ...
    def generator(self, step: int) -> torch.Generator: ...


class Mixture(NamedTuple):
    """N images, each with the one before it around a region."""

    x: Tensor
    """(N, 3, H, W), normalised."""
    region: Tensor
    """(N, H, W), 0 or 1."""
    embedding: Tensor
    """(N, D), of the images inside the regions; rolled by one row, of the images around them."""


@torch.no_grad()
def mixtures(module: Training, images: Tensor) -> Iterator[Mixture]:
    """Batches of uint8 images (N, H, W, 3), each mixed over another."""
    generator = module.generator(0)
    for part in images.split(module.config.batch_size):
        if len(part) > 1:
            u = module.frozen.normalize(part.to(module.device))
            region = regions(len(u), (u.shape[2], u.shape[3]), generator=generator).to(u)
            yield Mixture(region * u + (1 - region) * u.roll(1, 0), region[:, 0], module.embed(u))


def worth(module: Training, images: Tensor) -> float:
    """Mean `region_worth` of the regions of mixtures toward the images that they show."""
    generator = module.generator(0)
    found = [
        region_worth(
            module.config.objective,
            module.embed,
            Batch(
                x=one.x,
                embedding=one.embedding,
                logits=one.region,
                fill=make_fill(module.config.fill, one.x, generator=generator),
                centre=module.centre,
                generator=generator,
            ),
            one.region,
        )
        for one in mixtures(module, images)
    ]
    return float(np.mean(found))


@torch.no_grad()
def follow(module: Training, images: Tensor) -> float:
    """How far masks follow their targets, from 0 (not at all) to 1 (entirely).

    Share of the mask inside the region with the image inside as target, minus that with the other image as
    target; mean over mixtures of the uint8 images (N, H, W, 3).
    """
    masker = module.nem.masker
    training = masker.training
    masker.eval()
    found = []
    for one in mixtures(module, images):
        pyramid = module.frozen(one.x)[1]
        inside, around = (
            (mask * one.region).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1e-6)
            for target in (one.embedding, one.embedding.roll(1, 0))
            for mask in [masker(pyramid, one.x, target).squeeze(1).float().sigmoid()]
        )
        found.append((inside - around).mean().item())
    masker.train(training)
    return float(np.mean(found)) if found else 0.0
