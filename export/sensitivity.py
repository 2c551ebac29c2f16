"""Which layers int8 must leave alone: if the gate fails, those that lose most go back to float."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import onnx

from runtime.parity import LIMITS, Parity
from runtime.verify import Reference

MOST = 0.5
"""Share of the layers that may go back to float; beyond it int8 is not worth its trouble."""
_LIMITS = LIMITS["int8"]


class Form(NamedTuple):
    """One way to write int8."""

    name: str
    layers: list[str]
    """Names of the weighted nodes it quantises at first."""
    build: Callable[[str, Collection[str]], onnx.ModelProto]
    """(calibration method, names of layers to leave in float besides the heads) → the graph."""
    run: Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Its outputs for images."""

    def measure(self, reference: Reference, method: str, keep: Collection[str] = ()) -> Parity:
        """Build, run, compare."""
        return reference.compare(*self.run(self.build(method, keep), reference.images), precision="int8")


def badness(parity: Parity) -> float:
    """How much of what the gate allows is used up; above 1 it fails."""
    return max(
        parity.embedding_error / _LIMITS.embedding,
        (1 - parity.mask_iou) / (1 - (_LIMITS.mask_iou or 0.0)),
    )


def layers_to_keep(form: Form, method: str, *, check: Reference, gate: Reference) -> list[str]:
    """The fewest layers (by doubling) that must stay float for the gate to pass; all tried if none do.

    Layers are ranked on `check` by how much is won when that layer alone is in float.
    """
    if badness(form.measure(gate, method)) <= 1:
        return []
    won = {layer: badness(form.measure(check, method, [layer])) for layer in form.layers}
    ranked = sorted(won, key=lambda layer: won[layer])
    most = max(1, int(MOST * len(ranked)))
    count = 1
    while count < most and badness(form.measure(gate, method, ranked[:count])) > 1:
        count = min(2 * count, most)
    return ranked[:count]
