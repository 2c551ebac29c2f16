"""A figure over images: mean, standard error, and how many images it could not be computed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """Mean over the images that have the figure."""

    mean: float
    error: float
    """Standard error of the mean."""
    count: int
    """Images in the mean."""
    undefined: int
    """Images left out because the figure is nan for them (a constant map, an empty region)."""

    @property
    def upper(self) -> float:
        """Mean + 2 standard errors."""
        return self.mean + 2 * self.error


def estimate(values: Sequence[float] | NDArray[np.floating[Any]]) -> Estimate:
    """Estimate from one figure per image; the mean is nan over no image, the error over fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    n = len(known)
    return Estimate(
        mean=float(known.mean()) if n else np.nan,
        error=float(known.std(ddof=1) / n**0.5) if n > 1 else np.nan,
        count=n,
        undefined=len(array) - n,
    )
