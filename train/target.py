"""The part of a masker that takes a target: an embedding q, in place of the image's own.

q enters by two kinds of products: a 1×1 convolution of the deepest maps times a projection of q says where
the image is like q, and q scales and shifts each level (FiLM, Perez et al., AAAI 2018).  All of them are zero
if q is zero, which leaves the masker without a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from train.encoder.frozen import FrozenEncoder

WIDTH = 64
"""Length of a projected target."""
MATCHED = 3
"""Number of levels, from the deepest on, whose map is compared with the target."""

RIDGE = 3.0
"""Ridge of the regression, in units of the mean variance of the map's channels."""
LIKENESS_WEIGHT = 0.5
"""Weight of `likeness_loss`."""
UNLIKE = 1.0
"""Likeness logit of a cell whose probability to show the target is 1/2."""
SPREAD = 0.6
"""Standard deviation, before training, of the likeness logit of another image's map."""


class Target(nn.Module):
    """The layers that add a target to the levels of a `train.masker.LateralMasker`.

    Args:
        dimension: D of the embeddings.
        channels: C of the feature map that each level reads, deep to shallow.
        widths: channels of these levels.
    """

    centre: Tensor

    def __init__(self, *, dimension: int, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        matched = min(MATCHED, len(channels))
        self.register_buffer(
            "centre", torch.zeros(dimension)
        )  # μ, (D,), the centre of the objective's cosine
        self.hidden = nn.Linear(dimension, WIDTH, bias=False)
        self.film = nn.ModuleList(nn.Linear(WIDTH, 2 * width, bias=False) for width in widths)
        self.query = nn.ModuleList(nn.Linear(dimension, WIDTH, bias=False) for _ in range(matched))
        self.key = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels[:matched])
        self.match = nn.ModuleList(nn.Conv2d(WIDTH + 1, width, 1, bias=False) for width in widths[:matched])
        for weight in self.film.parameters():
            nn.init.normal_(weight, std=0.06)

    @torch.no_grad()
    def fit(self, means: Sequence[Tensor], embeddings: Tensor) -> None:
        """Set key and query before training, so that their product is the cosine that the map predicts.

        The embedding's direction is regressed (ridge) on the mean of a map; the largest singular directions
        of the result are the map's and the target's projections.

        Args:
            means: (N, C) of each compared level, the mean over the map's cells.
            embeddings: (N, D), of the same images.
        """
        direction = self.direction(embeddings)
        key: Any
        query: Any
        for mean, key, query in zip(means, self.key, self.query, strict=True):
            middle = mean.mean(dim=0)
            x = mean - middle
            gram = x.T @ x
            ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), device=gram.device)
            weights = torch.linalg.solve(gram + ridge, x.T @ direction)  # (C, D)
            left, values, right = torch.linalg.svd(weights, full_matrices=False)
            rank = min(WIDTH, len(values))
            to_key, to_query = (v[:, :rank] * values[:rank].sqrt() for v in (left, right.T))
            others = ((x @ to_key) * (direction.roll(1, 0) @ to_query)).sum(dim=1)
            scale = (SPREAD * math.sqrt(WIDTH) / others.std().clamp(min=1e-12)).sqrt()
            for weight, values in ((key.weight[:, :, 0, 0], to_key.T), (query.weight, to_query.T)):
                weight.zero_()[:rank] = scale * values
            key.bias.zero_()[:rank] = -scale * (middle @ to_key)

    def fitted(self) -> list[nn.Parameter]:
        """The parameters that `fit` sets, in a fixed order."""
        return [*self.key.parameters(), *self.query.parameters()]

    def direction(self, toward: Tensor) -> Tensor:
        """Targets (N, D) → float32 (N, D): minus the centre, scaled to length √D / 4; zeros stay zero."""
        toward = toward.float()
        given = toward.abs().amax(dim=1, keepdim=True).sign()
        unit = nn.functional.normalize(toward - self.centre.float(), dim=1)
        return given * (math.sqrt(toward.shape[1]) / 4) * unit

    def forward(
        self, features: Sequence[Tensor], levels: Sequence[Tensor], toward: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Add targets to levels.

        Args:
            features: maps (N, C, h, w), deep to shallow.
            levels: (N, width, h, w), made of the features.
            toward: targets (N, D).

        Returns:
            The levels with the targets; likeness logits (N, 1, h, w) of the compared levels' cells.
        """
        direction = self.direction(toward).to(levels[0].dtype)
        hidden = self.hidden(direction).relu()
        found, alike = list[Tensor](), list[Tensor]()
        for i, (feature, level) in enumerate(zip(features, levels, strict=True)):
            scale, shift = self.film[i](hidden)[..., None, None].chunk(2, dim=1)
            level = level * (1 + scale) + shift
            if i < len(self.key):
                product = self.key[i](feature) * self.query[i](direction)[..., None, None]
                alike.append(product.sum(dim=1, keepdim=True) / math.sqrt(WIDTH))
                match: Any = self.match[i]  # acts on both; concatenating them would cost more
                of_product, of_alike = match.weight.split([WIDTH, 1], dim=1)
                level = level + functional.conv2d(product, of_product + of_alike / math.sqrt(WIDTH))
            found.append(level)
        return found, alike


@torch.no_grad()
def level_means(
    encoder: FrozenEncoder, taps: Sequence[int], parts: Iterable[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The arguments of `Target.fit`, from batches of uint8 images (N, H, W, 3); taps: indices of the maps."""
    embeddings, means = list[Tensor](), list[list[Tensor]]()
    for part in parts:
        embedding, pyramid = encoder(encoder.normalize(part))
        embeddings.append(embedding.float())
        means.append([pyramid[i].float().mean(dim=(2, 3)) for i in taps])
    return [torch.cat(level) for level in zip(*means, strict=True)], torch.cat(embeddings)


def likeness_loss(alike: Sequence[Tensor], right: Tensor, rows: Tensor) -> Tensor:
    """Binary cross-entropy between the cells' likeness and whether they show what the target shows.

    Args:
        alike: likeness logits (N, 1, h, w) of some levels.
        right: (N, H, W): 1 where a pixel may be of what the target shows.
        rows: bool (N,): the rows that count.
    """
    weight = rows.float() / rows.sum().clamp(min=1)
    losses = [
        functional.binary_cross_entropy_with_logits(
            level.float() - UNLIKE,
            functional.adaptive_avg_pool2d(right[:, None], (level.shape[2], level.shape[3])),
            reduction="none",
        ).mean(dim=(1, 2, 3))
        for level in alike
    ]
    return LIKENESS_WEIGHT * (weight * torch.stack(losses).sum(dim=0)).sum()
