"""Mixtures of two images by a known region, so that the correct mask is known too."""

from __future__ import annotations

import numpy as np

SIDE = (0.35, 0.75)
"""Range of the regions' sides, as shares of the image's sides."""


def regions(n: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw n random regions, bool (n, h, w): boxes and ellipses with about a quarter of the area.

    Args:
        size: (h, w) in pixels.
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
    """Show `inside` in the region and `around` elsewhere: uint8 (…, h, w, 3), region bool (…, h, w)."""
    return np.where(region[..., None], inside, around)


def share_in(mask: np.ndarray, region: np.ndarray) -> float:
    """Share of a mask's sum in the region, 0 to 1; the region's share of the area if the mask is all 0."""
    whole = float(mask.sum(dtype=np.float64))
    return float(mask[region].sum(dtype=np.float64)) / whole if whole > 0 else float(region.mean())
