"""Faithfulness: parts of the image are hidden in the map's order, and the embeddings are compared.

Notation: f the embedding, c its mean over a reference set, ρ the fill.  Images are normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.errors import InputError
from train.objective import Embed, cosine_distance
from train.occlusion import occlude


def centred_cosine(u: Tensor, v: Tensor, *, centre: Tensor) -> Tensor:
    """cos(u − c, v − c), row by row: (N, D), (N, D), c (D,) → (N,), in float32, not clipped.

    Embeddings of one encoder share a direction, so a plain cosine is near 1 whatever is hidden; without
    their mean c (over images that are not measured) two different images are 0 on average.
    """
    return 1 - 2 * cosine_distance(u, v, centre=centre.float())


@torch.no_grad()
def insertion_deletion(
    embed: Embed,
    x: Tensor,
    map: Tensor,
    fill: Tensor,
    *,
    centre: Tensor,
    generator: torch.Generator,
    steps: int = 32,
    batch_size: int = 64,
) -> tuple[float, float]:
    """Areas under the insertion (higher is better) and deletion (lower is better) curves of one image.

    The centred cosine to f(x) as the top-ranked share t = 0, 1/steps, ..., 1 of the pixels is put into ρ,
    or replaced by ρ; trapezoid over t (RISE, Petsiuk et al. 2018, with an embedding for the class score).
    The curves are cosines: an area can be negative.

    Args:
        x, fill: (3, H, W).
        map: (H, W), signed or not; ties are ordered at random by `generator` (a CPU generator).
        batch_size: images per forward pass.
    """
    pixels = map.numel()
    counts = torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round()  # (steps+1,)
    place = _places(map, generator=generator)
    top = (place < counts.view(-1, 1, 1)).to(x)  # (steps+1, H, W)
    whole = embed(x.unsqueeze(0))
    areas = []
    for kept in (top, 1 - top):
        rows = [embed(occlude(x, chunk, fill)) for chunk in kept.split(batch_size)]
        curve = centred_cosine(torch.cat(rows), whole, centre=centre)
        areas.append(torch.trapezoid(curve.double().cpu(), counts / pixels).item())
    return areas[0], areas[1]


@torch.no_grad()
def cosine_kept(
    embed: Embed, x: Tensor, mask: Tensor, fill: Tensor, *, centre: Tensor
) -> tuple[Tensor, Tensor]:
    """What the hard mask (mask > 0.5) keeps of the embedding, and its area, per image: (N,), (N,).

    Args:
        x, fill: (N, 3, H, W).
        mask: (N, H, W).
    """
    hard = (mask > 0.5).to(x)
    return centred_cosine(embed(occlude(x, hard, fill)), embed(x), centre=centre), hard.mean((1, 2))


def held_out_fill(kind: str, x: Tensor, *, photographs: Tensor, generator: torch.Generator) -> Tensor:
    """ρ for images x (N, 3, H, W) that no objective was trained on (`make_fill` has those).

    `photograph` is one of `photographs` (M, 3, H, W), drawn for each image: normalised crops, none of
    which may show an image of x; `mean` is the image's own mean colour.

    Raises:
        InputError: no such fill, or photographs of another size.
    """
    if kind == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind != "photograph":
        raise InputError(f"fill {kind}", expected="photograph or mean", cure="see train.occlusion for others")
    if photographs.shape[1:] != x.shape[1:]:
        raise InputError(
            f"photographs {tuple(photographs.shape)} for images {tuple(x.shape)}",
            expected="photographs (M, 3, H, W) of the images' size",
            cure="crop them as the images were",
        )
    return photographs[torch.randint(len(photographs), (len(x),), generator=generator)].to(x)


def _places(map: Tensor, *, generator: torch.Generator) -> Tensor:
    """Place of every pixel in descending order, 0 the most important; ties at random: (H, W) → (H, W).

    Raises:
        InputError: a value that is not finite.
    """
    values = map.detach().cpu().flatten()
    if not values.isfinite().all():
        raise InputError(
            "a map with values that are not finite",
            expected="finite numbers, which can be ordered",
            cure="look for a division by zero in its explainer",
        )
    shuffled = torch.randperm(len(values), generator=generator)
    order = shuffled[values[shuffled].argsort(descending=True, stable=True)]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places.view(map.shape)
