"""Levels of a mask: the region above a level, and how much of the embedding that region keeps.

What a region keeps is a centred cosine (`runtime.media.occlusion.kept`).  It depends on the region's share
of the pixels and on its share of the mask's sum.  A region's `share` is the geometric mean of these two,
which differs least from image to image.  A package holds the curve from share to what is kept.
"""

from __future__ import annotations

import math

import numpy as np

from runtime.errors import InputError
from runtime.package.records import LevelRecord


def share_above(mask: np.ndarray, level: float) -> float:
    """Share of the region `mask >= level`: √(share of the pixels · share of the mask's sum).

    Args:
        mask: float (h, w), 0 or higher.
    """
    above = mask >= level
    whole = float(mask.sum(dtype=np.float64))
    pixels = float(above.mean())
    mass = float(mask[above].sum(dtype=np.float64)) / whole if whole else pixels
    return math.sqrt(pixels * mass)


def level_for(mask: np.ndarray, share: float) -> float:
    """The highest level whose region has at least this share; pixels with equal values stay together.

    Args:
        mask: float (h, w), 0 or higher.
        share: in [0, 1]; 0 gives infinity, so that the region is empty.
    """
    if share <= 0:
        return math.inf
    values = np.sort(mask, axis=None)[::-1].astype(np.float64)
    pixels = np.arange(1, values.size + 1) / values.size
    whole = values.sum()
    mass = values.cumsum() / whole if whole else pixels
    at = int(np.searchsorted(np.sqrt(pixels * mass), share))
    return float(values[min(at, values.size - 1)])


def curve_of(level: LevelRecord | None) -> LevelRecord:
    """Return `Manifest.level`; raises `InputError` if the package has none."""
    if level is None:
        raise InputError(
            "the package does not say what a level of its masks means",
            expected="a package whose manifest has `level`, the curve from level to what is kept",
            cure="build it again with images that training did not see: nemu build --evaluate FOLDER",
        )
    return level


def kept_by(curve: LevelRecord, share: float) -> float:
    """What a region of this share keeps on average, from the curve."""
    return float(np.interp(share, curve.share, curve.kept))


def share_for(curve: LevelRecord, keep: float) -> float:
    """The smallest share that keeps this much on average, from the curve.

    Raises:
        InputError: `keep` is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep}", expected="above 0, at most 1", cure="keep=0.9 keeps nine tenths")
    return float(np.interp(keep, curve.kept, curve.share))
