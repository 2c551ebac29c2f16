"""How much of a scene an encoder needs: the smallest area, found greedily, that keeps the embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.metrics.faithfulness import centred_cosine
from benchmarks.quality.scoring import Subject
from train.objective import Embed
from train.occlusion import occlude

CELL, COARSE = 4, 16
"""Side of the squares that are removed, pixels; the second only to see that everything runs."""
SHARE = 0.05
"""Share of the remaining squares that one round removes."""


def shares(seen: Subject, images: int, *, cell: int = CELL) -> dict[str, Any]:
    """Shares of the first images that are needed, of those that lie in the region, and of the region."""
    left = [
        needed(seen.embed, x, fill, centre=seen.centre, cell=cell).cpu().numpy()
        for x, fill in zip(seen.x[:images], seen.fill("photograph", images), strict=True)
    ]
    pairs = list(zip(left, seen.regions[:images], strict=True))
    inside = [(area & region).sum() / area.sum() for area, region in pairs if area.any() and region.any()]
    return {
        "needed_area": float(np.mean(left)),
        "needed_inside_region": float(np.mean(inside)) if len(inside) == len(left) else None,
        "region_area": float(seen.regions.mean()) or None,
    }


@torch.no_grad()
def needed(
    embed: Embed, x: Tensor, fill: Tensor, *, centre: Tensor, keep: float = 0.9, cell: int = CELL
) -> Tensor:
    """What is left of one image when removing more would lose its embedding: bool (H, W).

    Each round hides every remaining square by itself, then removes those that are missed least, for as
    long as the centred cosine stays at `keep` or above.  Greedy, so an upper bound on the smallest area.

    Args:
        x, fill: (3, H, W); what is hidden shows the fill.
        centre: mean embedding (D,).
    """
    height, width = x.shape[-2:]
    whole = embed(x.unsqueeze(0))
    left = torch.ones(-(-height // cell), -(-width // cell), dtype=torch.bool)

    def cosines(cells: Tensor) -> Tensor:
        pixels = cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :height, :width]
        rows = [embed(occlude(x, part.to(x), fill)) for part in pixels.split(100)]
        return centred_cosine(torch.cat(rows), whole, centre=centre).cpu()

    while left.any():
        remaining = left.nonzero()
        without = left.repeat(len(remaining), 1, 1)
        without[torch.arange(len(remaining)), remaining[:, 0], remaining[:, 1]] = False
        least_missed = cosines(without).argsort(descending=True)
        count = max(1, round(SHARE * len(remaining)))
        fewer = left.clone()
        fewer[tuple(remaining[least_missed[:count]].T)] = False
        if cosines(fewer.unsqueeze(0)).item() < keep:
            break
        left = fewer
    return left.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
