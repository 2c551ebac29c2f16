"""Which pixels lie above a level of a mask, and how much of the embedding that region keeps.

What is kept is the centred cosine (`runtime.occlusion.kept`).  How much a region keeps depends on how many
pixels it has and on how much of the mask lies in them; a region's `share` is the geometric mean of the two
shares, which differs least from image to image.  A package holds the curve from share to what is kept.
"""

from __future__ import annotations

import math

import numpy as np

from runtime.errors import InputError
from runtime.manifest import LevelRecord


def share_above(mask: np.ndarray, level: float) -> float:
    """√(share of the pixels · share of the mask's sum) of the region `mask >= level`.

    Args:
        mask: float (h, w), 0 or higher.
    """
    above = mask >= level
    whole = float(mask.sum(dtype=np.float64))
    pixels = float(above.mean())
    mass = float(mask[above].sum(dtype=np.float64)) / whole if whole else pixels
    return math.sqrt(pixels * mass)


def level_for(mask: np.ndarray, share: float) -> float:
    """The highest level whose region has at least this share, and all pixels that are tied at it.

    Args:
        mask: float (h, w), 0 or higher.
        share: in [0, 1]; 0 gives infinity, above which there is nothing.
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
    """`Manifest.level`, if the package has it.  Raises `InputError`: it has none."""
    if level is None:
        raise InputError(
            "the package does not say what a level of its masks means",
            expected="a package whose manifest has `level`, the curve from level to what is kept",
            cure="build it again with photographs that training did not see: nemu build --evaluate FOLDER",
        )
    return level


def kept_by(curve: LevelRecord, share: float) -> float:
    """What a region of this share keeps on average, by the curve."""
    return float(np.interp(share, curve.share, curve.kept))


def share_for(curve: LevelRecord, keep: float) -> float:
    """The smallest share that keeps so much on average, by the curve.

    Raises:
        InputError: `keep` is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep}", expected="above 0, at most 1", cure="keep=0.9 keeps nine tenths")
    return float(np.interp(keep, curve.kept, curve.share))
