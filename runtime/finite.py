"""Find outputs with values that are not finite; such outputs are never returned as an answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def not_finite(outputs: Mapping[str, np.ndarray]) -> str:
    """Name the arrays with values that are not finite: `the mask (3 of 24 values)`; "" if all are finite."""
    counts = {name: np.count_nonzero(~np.isfinite(array)) for name, array in outputs.items()}
    wrong = [f"the {name} ({n} of {outputs[name].size} values)" for name, n in counts.items() if n]
    return " and ".join(wrong)
