"""How concentrated a map is.  Both figures depend on the spread of the values, not on their order alone:
they say nothing of maps that are pure ranks (entropy 10.630 and Gini 0.3333 for each, at 224 x 224)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.metrics.maps import Map, flat
from runtime.errors import InputError


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
