"""The objectives: what a mask must keep, and what its area costs.

Notation: f the encoder's embedding, a the masker's logits, m = σ(a) the mask, M̄ its mean, ρ the fill,
x̃ = m·x + (1 − m)·ρ, x̄ = (1 − m)·x + m·ρ.  What a mask must keep is f(x), or, for a masker that takes a
target, an embedding q, which then stands in the equations for f(x).

D(u, v) = (1 − cos(u − μ, v − μ)) / 2, where μ is 0, or the mean embedding of some training images if the
cosine is centred.  It is taken on embeddings (N, D), over D, never over a spatial axis, and per image.
Equations: the authors' released code (NEM_T for NEM-U and NEMt, Ra_Nem for the ranking); the body of the
NEM-U paper could not be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from train.occlusion import occlude

Embed = Callable[[Tensor], Tensor]
"""Normalised images (N, 3, H, W) → embeddings (N, D)."""

DISTANCE_WEIGHT = 4.0
"""Weight of D in the objectives of NEM-U (authors' code)."""
CLASS_WEIGHT = 2.0
"""Weight of the lost class probability in NEMt.  The authors' code has 50, which a cross-batch index makes
about 50/32 for a sample's own class; here every row is scored on its own class alone."""
AREA_PRICE = 1.25
"""Default λ, in units of the empty mask's cost.  At 1 the full and the empty mask cost the same; the
more, the smaller the masks.  On two encoders of ImageNet, 1 left 0.13 of the background shown, 1.25 left 0.08
and 0.8 of the object, 2 left 0.03 and 0.6 (1,000 steps; benchmarks/results/area_price.json)."""
TARGET_PRICE = 0.3
"""λ toward a target, in units of what a region of a mixture is worth per unit of area (`region_worth`),
toward the image it came from.  At 1, showing the whole region costs as much as it gains."""
WRONG_PRICE = 6.0
"""Extra price of a pixel that the target cannot show, in units of λ toward a target.  It and TARGET_PRICE
were chosen on EfficientNet-Lite0; docs/toward.md has masks of that and of MobileNetV2."""
CERTAIN = 1e4
"""Logit of a mask that is exactly 0 or 1 in float32."""
RANKS = 6
"""Levels k of the ranking objective per image and step (authors' code)."""


@dataclass(frozen=True)
class Batch:
    """The input of an objective; all rows are independent of each other."""

    x: Tensor
    """Normalised images (N, 3, H, W)."""
    embedding: Tensor
    """f(x), or the target q; (N, D)."""
    logits: Tensor
    """a, float32 (N, H, W)."""
    fill: Tensor
    """ρ, (N, 3, H, W)."""
    centre: Tensor
    """μ, (D,)."""
    generator: torch.Generator
    """Source of the objective's random numbers."""
    price: Tensor | None = None
    """What a pixel costs, in units of λ: (N, H, W) or (N, 1, 1); None is 1."""

    def distance(self, embedding: Tensor) -> Tensor:
        """D(f(x), embedding), row by row: (N, D) → (N,)."""
        return cosine_distance(self.embedding, embedding, centre=self.centre)

    def size(self, mask: Tensor) -> Tensor:
        """Mean price of the pixels of a mask (N, H, W), or of its root."""
        return (mask if self.price is None else self.price * mask).mean()


@dataclass(frozen=True)
class Terms:
    """The loss of a batch and its parts; each a scalar."""

    loss: Tensor
    distance: Tensor
    """Mean D(f(x), f(x̃)), 0 (embedding kept) to 1."""
    area: Tensor
    """Mean mask, 0 to 1."""


def cosine_distance(u: Tensor, v: Tensor, *, centre: Tensor | None = None) -> Tensor:
    """D(u, v) in [0, 1], row by row: (N, D), (N, D) → (N,), in float32; centre (D,) or none."""
    u, v = u.float(), v.float()
    if centre is not None:
        u, v = u - centre, v - centre
    return (1 - torch.nn.functional.cosine_similarity(u, v, dim=1)) / 2


def sparse(embed: Embed, batch: Batch, *, area_weight: float) -> Terms:
    """L = 4·D(f(x), f(x̃)) + λ·mean(√m): NEM-U with a price that grey cannot bring down.

    Under the price M̄ half a mask costs half, so what hardly matters is left at a little everywhere.  The
    root is concave: a mask of 0.25 costs half of a full one, and near 0 it is the most expensive.  Pixels
    are driven to 1 or to 0.  Ours; the ablation is in docs/ablation.md.
    """
    mask = batch.logits.sigmoid()
    distance = batch.distance(embed(occlude(batch.x, mask, batch.fill))).mean()
    root = (torch.nn.functional.logsigmoid(batch.logits) / 2).exp()  # √m, with a gradient at m = 0
    return Terms(DISTANCE_WEIGHT * distance + area_weight * batch.size(root), distance, mask.mean())


def plain(embed: Embed, batch: Batch, *, area_weight: float) -> Terms:
    """NEM-U: L = 4·D(f(x), f(x̃)) + λ·M̄; the authors' λ is 1/2."""
    mask = batch.logits.sigmoid()
    distance = batch.distance(embed(occlude(batch.x, mask, batch.fill))).mean()
    return Terms(DISTANCE_WEIGHT * distance + area_weight * batch.size(mask), distance, mask.mean())


def contrastive(embed: Embed, batch: Batch, *, area_weight: float) -> Terms:
    """NEM-U: L = (4 − D⁻)·D⁺ + λ·M̄, with D⁺ = D(f(x), f(x̃)), D⁻ = D(f(x̃), f(x̄)).

    A complement whose embedding lies far away discounts the distance (version 1 of the authors' code;
    version 2 rewards a large D⁺ and is not offered).
    """
    mask = batch.logits.sigmoid()
    both = torch.cat([occlude(batch.x, mask, batch.fill), occlude(batch.x, 1 - mask, batch.fill)])
    kept, complement = embed(both).chunk(2)
    distance = batch.distance(kept)
    apart = cosine_distance(kept, complement, centre=batch.centre)
    loss = ((DISTANCE_WEIGHT - apart) * distance).mean() + area_weight * batch.size(mask)
    return Terms(loss, distance.mean(), mask.mean())


def ranking(embed: Embed, batch: Batch, *, area_weight: float) -> Terms:
    """Ranking: L = D(f(x), f(top_k(a)·x + (1 − top_k(a))·ρ)), mean over k, which is 1 − the insertion AUC.

    The cosine of the embedding stands in for Ra-NEM's class probability (Ra_Nem codes this and does not
    publish it).  Six levels k per image, one from each sixth of the pixels; Gumbel noise makes the order
    random, a straight-through sigmoid around the k-th value lets gradients through, the value included.
    The size has no price, so `area_weight` is not used; logits are ordinal, their level means nothing.
    """
    n, height, width = batch.logits.shape
    source = batch.generator
    uniform = torch.rand(n, RANKS, height * width, generator=source, device=source.device).clamp(min=1e-9)
    noisy = batch.logits.view(n, 1, -1) - (-uniform.log()).log().to(batch.logits)  # (N, R, H·W)
    sixth = height * width // RANKS
    within = torch.randint(1, sixth + 1, (n, RANKS), generator=source, device=source.device)
    k = (torch.arange(RANKS, device=within.device) * sixth + within).to(noisy.device)
    mask = top_k(noisy, k.unsqueeze(2)).view(-1, height, width)  # (N·R, H, W)
    x, fill, embedding = (t.repeat_interleave(RANKS, dim=0) for t in (batch.x, batch.fill, batch.embedding))
    kept = embed(occlude(x, mask, fill))
    distance = cosine_distance(embedding, kept, centre=batch.centre).mean()
    return Terms(distance, distance, batch.logits.sigmoid().mean())


def top_k(values: Tensor, k: Tensor) -> Tensor:
    """1 for the k largest of the last axis and 0 for the others, exactly k ones even where values tie.

    Backwards it is σ(value − k-th largest value).  Values (…, P); k int64 (…, 1), 1 to P.
    """
    ordered, order = values.sort(dim=-1, descending=True, stable=True)
    first = torch.arange(values.shape[-1], device=values.device) < k
    hard = torch.zeros_like(values).scatter(-1, order, first.to(values))
    soft = (values - ordered.gather(-1, k - 1)).sigmoid()
    return hard + (soft - soft.detach())  # what is added is exactly 0


def class_targeted(embed: Embed, batch: Batch, *, area_weight: float) -> Terms:
    """NEMt: L = w·mean(1 − p_c(x̃)) + λ·M̄, p = softmax of f, which is the encoder's logits here.

    c is each row's own class, the arg-max of f(x); `distance` is the lost probability 1 − p_c.
    """
    mask = batch.logits.sigmoid()
    probabilities = embed(occlude(batch.x, mask, batch.fill)).float().softmax(dim=1)
    own = batch.embedding.argmax(dim=1, keepdim=True)
    lost = (1 - probabilities.gather(1, own)).mean()
    return Terms(CLASS_WEIGHT * lost + area_weight * mask.mean(), lost, mask.mean())


OBJECTIVES = {
    "sparse": sparse,
    "plain": plain,
    "contrastive": contrastive,
    "ranking": ranking,
    "class": class_targeted,
}


@torch.no_grad()
def constant_mask_cost(
    objective: str, embed: Embed, batch: Batch, *, value: float, area_weight: float
) -> Terms:
    """The cost of a mask of one value everywhere on a batch, whose logits are ignored.

    Args:
        value: 0 (nothing is shown) or 1 (everything is shown).
    """
    logits = torch.full_like(batch.logits, CERTAIN if value else -CERTAIN)
    return OBJECTIVES[objective](embed, replace(batch, logits=logits), area_weight=area_weight)


@torch.no_grad()
def region_worth(objective: str, embed: Embed, batch: Batch, region: Tensor) -> float:
    """How much less a batch costs, per unit of area, if regions (N, H, W), 0 or 1, are shown.

    The costs leave out the size, and the batch's logits are ignored.
    """
    cost = [
        OBJECTIVES[objective](embed, replace(batch, logits=CERTAIN * (2 * mask - 1)), area_weight=0.0).loss
        for mask in (0 * region, region)
    ]
    return ((cost[0] - cost[1]) / region.mean()).item()
