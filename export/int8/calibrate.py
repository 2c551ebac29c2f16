"""Calibration: what values each activation takes on real images, and the range that int8 should span.

A range that holds every value wastes steps on rare ones; a narrower one clips them.  The range with the least
squared error of rounding and clipping is taken, searched over a histogram of the values.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.graph.session import Session, with_outputs
from export.graph.structure import float_tensors

_BINS = 2048
_SAMPLE = 1 << 16  # values of one tensor of one image in its histogram; min and max are over all values

Ranges = dict[str, tuple[float, float]]
"""Tensor → the interval that its int8 values span; holds zero."""


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
    return {name: best_range(*extremes[name], counts[name]) for name in names}


def best_range(least: float, most: float, counts: np.ndarray) -> tuple[float, float]:
    """The interval of least squared error for one tensor's values, widened to hold zero.

    Args:
        counts: int64 (bins,), over equal bins from `least` to `most`.
    """
    edges = np.linspace(least, most, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    best, found = np.inf, (least, most)
    for part in np.linspace(0.3, 1.0, 71):
        low, high = least * float(part), most * float(part)
        clipped = np.clip(centres, low, high)
        step = (high - low) / 255
        error = float(counts @ ((centres - clipped) ** 2 + (centres == clipped) * step**2 / 12))
        if error < best:
            best, found = error, (low, high)
    return min(found[0], 0.0), max(found[1], 0.0)
