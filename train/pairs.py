"""Pairs without labels: images mixed by a random region, and targets that contain a part of the mixture.

x = R·u + (1 − R)·v for images u, v and a random region R.  The target is the embedding of u, of v, of
another image w, of x itself, or of another mixture with u or v.  R is known, and so are the pixels of x that
the target cannot show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

SIDE = (0.35, 0.75)
"""Range of the sides of boxes and ellipses, as shares of the image's sides."""
BLOB = (0.15, 0.5)
"""Range of the area of blobs, as a share of the image's."""
BUMPS = 5
"""Cells a side of the noise that blobs are cut from."""
KINDS = {"u": 0.18, "v": 0.18, "w": 0.16, "u+w": 0.16, "w+v": 0.16, "x": 0.06, "u: w": 0.05, "u: u+w": 0.05}
"""Content of the target → probability; before a colon: x is the single image u."""


@dataclass(frozen=True)
class Pairs:
    """Images and their targets."""

    x: Tensor
    """(N, 3, H, W), normalised."""
    target: Tensor
    """(N, 3, H, W), normalised: images whose embeddings are the targets."""
    wrong: Tensor
    """(N, H, W): 1 where a pixel of x comes from no image in the target."""
    known: Tensor
    """bool (N,): whether the pixels that are not `wrong` show the target; not if both mix the same images."""


def regions(n: int, size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """(n, 1, H, W), 0 or 1: boxes, ellipses and blobs at random places, on the generator's device."""
    height, width = size
    draw = torch.rand(n, 5, generator=generator, device=generator.device)
    sides = SIDE[0] + (SIDE[1] - SIDE[0]) * draw[:, :2]
    middle = (sides + 2 * draw[:, 2:4] * (1 - sides)) / 2  # so that all of it lies inside
    y = (torch.arange(height, device=draw.device) + 0.5).view(1, -1, 1) / height
    x = (torch.arange(width, device=draw.device) + 0.5).view(1, 1, -1) / width
    from_middle = [
        (at - middle[:, i].view(-1, 1, 1)) / sides[:, i].view(-1, 1, 1) for i, at in enumerate((y, x))
    ]
    box = (from_middle[0].abs() < 0.5) & (from_middle[1].abs() < 0.5)
    ellipse = from_middle[0] ** 2 + from_middle[1] ** 2 < 0.25
    noise = torch.randn(n, 1, BUMPS, BUMPS, generator=generator, device=generator.device)
    noise = torch.nn.functional.interpolate(noise, size=size, mode="bicubic")[:, 0]
    ordered = noise[:, ::4, ::4].flatten(1).sort(dim=1, descending=True).values
    area = BLOB[0] + (BLOB[1] - BLOB[0]) * draw[:, 0]
    least = ordered.gather(1, (area * ordered.shape[1]).long()[:, None])
    kind = draw[:, 4].view(-1, 1, 1)
    shape = torch.where(kind < 0.5, noise >= least[..., None], torch.where(kind < 0.7, box, ellipse))
    return shape[:, None].float()


def mixed(u: Tensor, v: Tensor, w: Tensor, *, generator: torch.Generator) -> Pairs:
    """One pair for each row of u, v and w: normalised images (N, 3, H, W) each."""
    n = len(u)
    r, s = (regions(n, (u.shape[2], u.shape[3]), generator=generator).to(u) for _ in range(2))
    draw = torch.rand(n, 2, generator=generator, device=generator.device).to(u.device)
    bounds = list(accumulate(KINDS.values()))[:-1]
    kind = torch.stack([draw[:, 0] >= bound for bound in bounds]).sum(dim=0).view(-1, 1, 1, 1)

    def of_kind(values: Sequence[Tensor | float]) -> Tensor:
        return sum(((kind == i) * value for i, value in enumerate(values)), torch.zeros_like(r))

    inside = of_kind([r, r, r, r, r, r, 1, 1])  # what of x is u; the rest is v
    first = of_kind([1, 0, 0, s, 0, r, 0, s])  # what of the target is u
    second = of_kind([0, 1, 0, 0, 1 - s, 1 - r, 0, 0])  # what of it is v; the rest is w
    target = first * u + second * v + (1 - first - second) * w
    mirrored = (draw[:, 1] < 0.5).view(-1, 1, 1, 1)
    return Pairs(
        x=(inside * u + (1 - inside) * v).contiguous(memory_format=torch.channels_last),
        target=torch.where(mirrored, target.flip(3), target).contiguous(memory_format=torch.channels_last),
        wrong=of_kind([1 - r, r, 1, 1 - r, r, 0, 1, 0])[:, 0],
        known=((kind != 5) & (kind != 7)).flatten(),
    )
