"""Which layers stay in float: if the gate fails, the int8 layers that lose most go back to float."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import onnx

from runtime.package.parity import LIMITS, Parity
from runtime.package.reference import Reference

MOST = 0.5
"""Largest share of the layers that may go back to float; if more must, int8 is refused."""
_LIMITS = LIMITS["int8"]

Step = Callable[[str], AbstractContextManager[None]]
"""Wraps each long step, to show progress."""


class Form(NamedTuple):
    """One of the int8 graphs, and how it is built, run and measured."""

    name: str
    layers: list[str]
    """Names of the weighted nodes it quantises at first."""
    build: Callable[[Collection[str]], onnx.ModelProto]
    """Names of layers to leave in float besides the heads → the graph."""
    losses: Callable[[onnx.ModelProto], dict[str, float]]
    """The error of each int8 layer of the graph by itself."""
    run: Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """The graph's outputs for images."""


class Fit(NamedTuple):
    """A graph with the layers in float that the gate needs."""

    model: onnx.ModelProto
    kept: list[str]
    parity: Parity


def badness(parity: Parity) -> float:
    """The largest error relative to its limit; above 1 the gate fails."""
    return max(
        parity.embedding_error / _LIMITS.embedding,
        (1 - parity.mask_iou) / (1 - (_LIMITS.mask_iou or 0.0)),
    )


def fit(form: Form, reference: Reference, *, step: Step) -> Fit:
    """The graph with few layers in float that passes the gate; the best that was found if none does.

    Layers are ranked by their own errors, which one pass over the images measures.  The number of layers in
    float is found by doubling, then by halving the last step down to an eighth of that number.
    """
    best = _fit(form, reference, [], step)
    if badness(best.parity) <= 1:
        return best
    with step(f"{form.name}: which layers lose most"):
        losses = form.losses(best.model)
    ranked = sorted(losses, key=lambda layer: -losses[layer])
    count, fails, most = 0, 0, max(1, int(MOST * len(form.layers)))
    while badness(best.parity) > 1 and count < most:
        fails, count = count, min(max(1, 2 * count), most)
        best = min(best, _fit(form, reference, ranked[:count], step), key=lambda found: badness(found.parity))
    while badness(best.parity) <= 1 and count - fails > max(1, count // 8):
        middle = (fails + count) // 2
        found = _fit(form, reference, ranked[:middle], step)
        if badness(found.parity) <= 1:
            best, count = found, middle
        else:
            fails = middle
    return best


def _fit(form: Form, reference: Reference, kept: list[str], step: Step) -> Fit:
    with step(f"{form.name}: parity with {len(kept)} of {len(form.layers)} layers in float"):
        model = form.build(kept)
        outputs = form.run(model, reference.images)
        return Fit(model, kept, reference.compare(*outputs, precision="int8"))
