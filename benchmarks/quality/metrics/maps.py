"""An explanation map by itself, floats (H, W), higher = more important: its ranks, its concentration.

Tied values are ranked by the expectation over a random order of them, in closed form.  Complexity and
sparseness depend on the spread of the values, not on their order alone: they say nothing of maps that are
pure ranks (entropy 10.630 and Gini 0.3333 for each, at 224 x 224).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError

Map = NDArray[np.floating[Any]]
"""(H, W)."""
Region = NDArray[np.bool_]
"""S, (H, W): where the thing to be found is."""


def flat(map: Map) -> NDArray[np.float64]:
    """The map's values in double precision, (H·W,).

    Raises:
        InputError: not (H, W), empty, or not finite: such a map has no order.
    """
    values = np.asarray(map, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError(
            f"a map {values.shape} with {int((~np.isfinite(values)).sum())} values that are not finite",
            expected="one map (H, W) of finite numbers",
            cure="measure one map at a time; look for a division by zero in its explainer",
        )
    return values.ravel()


def midranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Ranks 1 (lowest) to n; tied values share the mean of the ranks they occupy."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def expected_hits(values: NDArray[np.floating[Any]], region: NDArray[np.bool_], *, k: int) -> float:
    """E|top-k ∩ S|, 1 <= k <= n: what lies above the k-th value is in; its ties share the places left."""
    kth = np.partition(values, -k)[-k]
    above, tied = values > kth, values == kth
    places = k - above.sum()
    return float((above & region).sum() + places * (tied & region).sum() / tied.sum())


def unit_ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Midranks, centred and of unit length; nan if all values are equal.

    The inner product of two of them is Spearman's ρ, corrected for ties.
    """
    centred = midranks(values) - (len(values) + 1) / 2
    length = np.linalg.norm(centred)
    return centred / length if length else np.full_like(centred, np.nan)


def distribution(map: Map) -> NDArray[np.float64]:
    """q = a / Σ a, (H·W,); nan if the map is all zero.

    Raises:
        InputError: a negative value.
    """
    values = flat(map)
    if values.min() < 0:
        raise InputError(
            f"a map with values down to {values.min():.3g}",
            expected="a map >= 0, whose values can be shares of a whole",
            cure="say what a negative value means: clip it (evidence against) or take its magnitude",
        )
    total = values.sum()
    return values / total if total else np.full_like(values, np.nan)


def complexity(map: Map) -> float:
    """Entropy −Σ q ln q, 0 (one pixel) to ln n (flat), in nats (Bhatt et al. 2020); nan if all zero."""
    q = distribution(map)
    q = q[q != 0]  # 0 ln 0 = 0
    return float(-(q * np.log(q)).sum())


def sparseness(map: Map) -> float:
    """Gini index Σ_i (2i − n − 1) q_(i) / n, q ascending (Chalasani et al. 2020); nan if all zero.

    0 (flat) to 1 − 1/n (one pixel).  Quantus adds 1e-7 to every value first; this does not.
    """
    q = np.sort(distribution(map))
    n = len(q)
    return float((2 * np.arange(1, n + 1) - n - 1) @ q / n)
