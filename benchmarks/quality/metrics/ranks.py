"""Ranks with ties broken fairly: the expectation over a random order of the tied values, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
"""(n,)."""


def midranks(values: Values) -> NDArray[np.float64]:
    """Ranks 1 (lowest) to n; tied values share the mean of the ranks they occupy."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def expected_hits(values: Values, region: NDArray[np.bool_], *, k: int) -> float:
    """E|top-k ∩ S|, 1 <= k <= n: what lies above the k-th value is in; its ties share the places left."""
    kth = np.partition(values, -k)[-k]
    above, tied = values > kth, values == kth
    places = k - above.sum()
    return float((above & region).sum() + places * (tied & region).sum() / tied.sum())


def unit_ranks(values: Values) -> NDArray[np.float64]:
    """Midranks, centred and of unit length; nan if all values are equal.

    The inner product of two of them is Spearman's ρ, corrected for ties.
    """
    centred = midranks(values) - (len(values) + 1) / 2
    length = np.linalg.norm(centred)
    return centred / length if length else np.full_like(centred, np.nan)
