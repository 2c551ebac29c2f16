"""An explanation map before it is measured: floats (H, W), higher = more important."""

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
