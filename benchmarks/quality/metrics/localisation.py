"""Does a map point at the region S where the thing is?  One map (H, W), one region (H, W) → one figure.

n pixels, |S| of them in the region; its area is |S|/n.  Signed maps are allowed unless said otherwise.
Ties are broken fairly: every figure is its exact expectation when tied pixels are ordered uniformly at
random, never by position.  A constant map therefore scores its chance value.  Every figure is nan where it
is undefined: all of them where S is empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.metrics.maps import Map, Region, distribution, expected_hits, flat, midranks
from runtime.errors import InputError


def relevance_rank(map: Map, region: Region) -> float:
    """|top-|S| ∩ S| / |S| (Arras et al. 2022); chance is the area."""
    a, s = _pair(map, region)
    size = int(s.sum())
    return expected_hits(a, s, k=size) / size if size else np.nan


def rank_corrected(map: Map, region: Region) -> float:
    """(relevance rank − area) / (1 − area): 0 at chance, 1 if perfect; nan if S is the whole image."""
    rank, area = relevance_rank(map, region), float(region.mean())
    return (rank - area) / (1 - area) if area < 1 else np.nan


def relevance_mass(map: Map, region: Region) -> float:
    """Σ_S a / Σ a (Arras et al. 2022); the map must be >= 0; nan if it is all zero."""
    _, s = _pair(map, region)
    return float(distribution(map)[s].sum()) if s.any() else np.nan


def pointing_game(map: Map, region: Region) -> float:
    """Chance that a maximal pixel, drawn uniformly, lies in S (after Zhang et al. 2018).

    Quantus differs where the maximum is tied: it counts a hit if any maximal pixel lies in S, so that a
    saturated or constant map always hits.
    """
    a, s = _pair(map, region)
    return expected_hits(a, s, k=1) if s.any() else np.nan


def roc_auc(map: Map, region: Region) -> float:
    """Chance that a pixel in S ranks above one outside, ties half: (Σ_S rank − |S|(|S|+1)/2) / (|S|(n−|S|)).

    nan if S is the whole image.
    """
    a, s = _pair(map, region)
    size = int(s.sum())
    pairs = size * (len(a) - size)
    return float(midranks(a)[s].sum() - size * (size + 1) / 2) / pairs if pairs else np.nan


def mask_inside(map: Map, region: Region) -> float:
    """Mean of the map in S."""
    a, s = _pair(map, region)
    return float(a[s].mean()) if s.any() else np.nan


def mask_outside(map: Map, region: Region) -> float:
    """Mean of the map outside S; nan if S is the whole image."""
    a, s = _pair(map, region)
    return float(a[~s].mean()) if s.any() and not s.all() else np.nan


def _pair(map: Map, region: Region) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Both as (H·W,)."""
    if region.dtype != np.bool_ or region.shape != map.shape:
        raise InputError(
            f"a region {region.shape} of {region.dtype} for a map {map.shape}",
            expected="a bool region of the map's shape",
            cure="compare it with a threshold of yours; resize the map to the region's size",
        )
    return flat(map), region.ravel()
