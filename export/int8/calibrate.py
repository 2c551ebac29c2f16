"""Calibration: what values each activation takes on real images, and the range that int8 should span.

A range that holds every value wastes steps on rare ones; a narrower one clips them.  The range with the least
squared error of rounding and clipping is taken, searched over a histogram of the values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from export.graph.session import Session, with_outputs
from export.graph.structure import float_tensors

_BINS = 2048
_SAMPLE = 1 << 16  # values of one tensor of one image in its histogram; min and max are over all values

Ranges = dict[str, tuple[float, float]]
"""Tensor → the interval that its int8 values span; holds zero."""


@dataclass(frozen=True)
class Observed:
    """The values of one tensor on all calibration images."""

    low: float
    high: float
    counts: np.ndarray
    """int64 (bins,), over equal bins from `low` to `high`."""

    def range(self) -> tuple[float, float]:
        """The interval of least squared error, widened to hold zero."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        best, found = np.inf, (self.low, self.high)
        for part in np.linspace(0.3, 1.0, 71):
            low, high = self.low * float(part), self.high * float(part)
            clipped = np.clip(centres, low, high)
            step = (high - low) / 255
            error = float(self.counts @ ((centres - clipped) ** 2 + (centres == clipped) * step**2 / 12))
            if error < best:
                best, found = error, (low, high)
        return min(found[0], 0.0), max(found[1], 0.0)


def ranges(model: onnx.ModelProto, images: np.ndarray) -> Ranges:
    """The interval of every float32 tensor that a node computes.

    Runs the graph on the images twice: for the extremes, then for histograms between them.

    Args:
        model: a float32 graph.
        images: uint8 (N, H, W, 3).
    """
    known = {o.name for o in model.graph.output}
    names = [name for name in float_tensors(model) if name not in known]
    session = Session(with_outputs(model, names))
    extremes = dict.fromkeys(names, (np.inf, -np.inf))
    for image in images:
        for name, value in zip(names, session(names, image[None]), strict=True):
            low, high = extremes[name]
            extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for image in images:
        for name, value in zip(names, session(names, image[None]), strict=True):
            low, high = extremes[name]
            flat = value.reshape(-1)[:: max(1, value.size // _SAMPLE)].astype(np.float64)
            narrowest = max(1e-4 * max(abs(low), abs(high)), 1e-6)  # bins of a constant tensor
            counts[name] += np.histogram(flat, _BINS, (low, max(high, low + narrowest)))[0]
    return {name: Observed(*extremes[name], counts[name]).range() for name in names}
