"""The objectives of NEM-U: what the mask must keep, and what it costs.

Notation: f the encoder's embedding, m the mask, M̄ its mean, ρ the fill, x̃ = m·x + (1 − m)·ρ.
Equations: the authors' released code (NEM_T, unsupervised branch); the body of the paper could not be
read.  The cosine is taken on embeddings (N, D), over D, never over a spatial axis, and per image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.occlusion import occlude

Embed = Callable[[Tensor], Tensor]
"""Normalised images (N, 3, H, W) → embeddings (N, D)."""

DISTANCE_WEIGHT = 4.0
"""Weight of D in both objectives (authors' code)."""


@dataclass(frozen=True)
class Terms:
    """The loss of a batch and what it is made of; each a scalar."""

    loss: Tensor
    distance: Tensor
    """Mean D⁺, 0 (embedding kept) to 1."""
    area: Tensor
    """Mean mask, 0 to 1."""


def cosine_distance(u: Tensor, v: Tensor) -> Tensor:
    """D(u, v) = (1 − cos(u, v)) / 2 in [0, 1], row by row: (N, D), (N, D) → (N,), in float32."""
    return (1 - torch.nn.functional.cosine_similarity(u.float(), v.float(), dim=1)) / 2


def plain(
    embed: Embed, x: Tensor, embedding: Tensor, mask: Tensor, fill: Tensor, *, area_weight: float
) -> Terms:
    """L = 4·D(f(x), f(x̃)) + λ·M̄; the authors' λ is 1/2."""
    distance = cosine_distance(embedding, embed(occlude(x, mask, fill)))
    loss = DISTANCE_WEIGHT * distance.mean() + area_weight * mask.mean()
    return Terms(loss, distance.mean(), mask.mean())


def contrastive(
    embed: Embed, x: Tensor, embedding: Tensor, mask: Tensor, fill: Tensor, *, area_weight: float
) -> Terms:
    """L = (4 − D⁻)·D⁺ + λ·M̄, with D⁺ = D(f(x), f(x̃)), D⁻ = D(f(x̃), f(x̄)), x̄ = (1 − m)·x + m·ρ.

    A complement whose embedding lies far away discounts the distance (version 1 of the authors' code;
    version 2 rewards a large D⁺ and is not offered).
    """
    kept, complement = embed(torch.cat([occlude(x, mask, fill), occlude(x, 1 - mask, fill)])).chunk(2)
    distance = cosine_distance(embedding, kept)
    apart = cosine_distance(kept, complement)
    loss = ((DISTANCE_WEIGHT - apart) * distance).mean() + area_weight * mask.mean()
    return Terms(loss, distance.mean(), mask.mean())


OBJECTIVES = {"plain": plain, "contrastive": contrastive}


@dataclass(frozen=True)
class CollapseCheck:
    """Whether the trivial masks are where an objective is lowest."""

    empty_cost: float
    """4·D(f(x), f(ρ)), mean over images: the price of showing nothing."""
    full_cost: float
    """λ: the price of showing everything."""

    @property
    def break_even_area(self) -> float:
        """Masks larger than this share of the image lose to the empty mask, however well they keep f."""
        return self.empty_cost / self.full_cost

    def warning(self) -> str | None:
        """What to tell the user, with the numbers; None where the full mask beats the empty one."""
        if self.break_even_area >= 1:
            return None
        return (
            f"an empty mask costs {self.empty_cost:.2f}, a full one {self.full_cost:.2f}: any mask larger "
            f"than {self.break_even_area:.0%} of the image loses to the empty mask. If the masks collapse "
            f"to nothing, lower --area-weight below {self.empty_cost:.2f} or choose another --fill."
        )


@torch.no_grad()
def check_collapse(
    embed: Embed, x: Tensor, embedding: Tensor, fill: Tensor, *, area_weight: float
) -> CollapseCheck:
    """Price the empty and the full mask on a batch (the empty mask wins where cos(f(x), f(ρ)) > 1 − λ/2)."""
    empty = DISTANCE_WEIGHT * cosine_distance(embedding, embed(fill)).mean().item()
    return CollapseCheck(empty_cost=empty, full_cost=area_weight)
