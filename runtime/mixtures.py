"""Mixtures of two images by a region that is known: what a mask should show of them is known too."""

from __future__ import annotations

import numpy as np

SIDE = (0.35, 0.75)
"""Sides of the regions, shares of the image's."""


def regions(n: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool (n, h, w): a box or an ellipse each, somewhere in the image; about a quarter of its area.

    Args:
        size: (h, w), pixels.
    """
    y, x = ((np.arange(side) + 0.5) / side for side in size)
    found = np.zeros((n, *size), bool)
    for one in found:
        sides = rng.uniform(*SIDE, 2)
        top, left = rng.uniform(0, 1 - sides)
        down = np.abs((y[:, None] - top) / sides[0] - 0.5)
        across = np.abs((x[None] - left) / sides[1] - 0.5)
        one[:] = (down < 0.5) & (across < 0.5) if rng.random() < 0.5 else down**2 + across**2 < 0.25
    return found


def mix(inside: np.ndarray, around: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`inside` where the region is, `around` elsewhere: uint8 (…, h, w, 3), region bool (…, h, w)."""
    return np.where(region[..., None], inside, around)


def share_in(mask: np.ndarray, region: np.ndarray) -> float:
    """Share of a mask's sum that lies in the region, 0 to 1; that of the area for a mask that is all 0."""
    whole = float(mask.sum(dtype=np.float64))
    return float(mask[region].sum(dtype=np.float64)) / whole if whole > 0 else float(region.mean())
