"""Sentences for the codes that packages and sidecars store.

A manifest stores codes and numbers.  The sentence is made here, where it is shown.  Older packages stored the
sentence itself, which is returned unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.package.parity import LIMITS, Parity

LARGEST_HALF = 65504.0
"""The largest finite float16."""
_SHOWN = 8
"""At most this many nodes of one reason are named."""

Reason = dict[str, Any]
"""Why something was refused: `code`, one of `CODES`, and the numbers and names that its sentence needs."""

_NOT_RUN = {
    "unavailable": "its library, driver or GPU is not here (nemu doctor says which)",
    "mismatch": "it was built for another GPU or version than those here",
}
_MEANINGS = {"importance": "0 to 1, higher = more important for the embedding"}
_FILLS = {"mean_colour": "the encoder's mean colour", "blur": "the image, blurred"}


def sentence(reason: str | Mapping[str, Any]) -> str:
    """Why something was refused, in one line.

    Args:
        reason: a `Reason`; or a reason for each precision; or, from an older package, the sentence.
    """
    if isinstance(reason, str):
        return reason
    if "code" not in reason:
        return "; ".join(f"{precision}: {sentence(why)}" for precision, why in reason.items())
    layers = f"its layers in {reason['in']}: " if "in" in reason else ""
    return layers + " ".join(CODES[reason["code"]](reason).split())


def not_run(code: str) -> str:
    """Why an engine was not run on the machine that built it."""
    return _NOT_RUN.get(code, code)


def meaning(code: str) -> str:
    """What an output of the graph holds."""
    kind, _, name = code.partition(":")
    return f"the encoder's {name} embedding" if kind == "embedding" else _MEANINGS.get(code, code)


def fill(code: str) -> str:
    """What was shown in the place of hidden pixels."""
    return _FILLS.get(code, code)


def images_used(code: str) -> str:
    """Which images something was measured on.

    Args:
        code: `shipped:N`, `apart:N`, `reference:N:SEEN:FOLDER` or `evaluate:N:HELD:SEEN:FOLDER`.  SEEN is
            `seen` if the folder overlaps with the one that the masker's configuration names for training,
            else `unknown`.
    """
    kind, _, rest = code.partition(":")
    if kind == "shipped":
        return f"the {rest} photographs that nemu comes with, which are not representative of your data"
    if kind == "apart":
        return f"{rest} images that training set apart of its folder"
    if kind == "reference":
        n, seen, folder = rest.split(":", 2)
        source = f"{n} images of the folder `{folder}`, which are in reference.npz"
    elif kind == "evaluate":
        n, held, seen, folder = rest.split(":", 3)
        source = f"{n} of the {held} images in the folder `{folder}`"
    else:
        return code
    overlaps = "the folder overlaps with the one that the masker's configuration names for training"
    return f"{source}; {overlaps if seen == 'seen' else 'whether training saw them, nemu does not know'}"


def largest(peaks: Mapping[str, float | str], *, more: int = 0) -> str:
    """The first eight nodes with their largest magnitudes, and how many others there are."""
    shown = [f"{name} reaches {float(peak):.3g}" for name, peak in list(peaks.items())[:_SHOWN]]
    more += len(peaks) - len(shown)
    return ", ".join(shown) + (f" and {more} nodes more" if more else "")


def _range(r: Mapping[str, Any]) -> str:
    margin = f", and other images may reach {r['margin']:g} times as far" if r["margin"] > 1 else ""
    nodes = largest(r["peaks"], more=r["more"])
    return f"{nodes} on {r['images']} images; fp16 ends at {LARGEST_HALF:.0f}{margin}"


def _gate(r: Mapping[str, Any]) -> str:
    numbers: dict[str, Any] = {k: float(v) if isinstance(v, str) else v for k, v in r["parity"].items()}
    said = "; ".join(Parity(**numbers).failures(LIMITS[r["precision"]]))
    floats = f", with {r['float_layers']} of {r['layers']} layers in float" if "layers" in r else ""
    return f"{r['compared']}: {said}{floats}" if "compared" in r else said + floats


def _rules(r: Mapping[str, Any]) -> str:
    found = [f"{name}: {', '.join(nodes[:_SHOWN])}" for name, nodes in r["rules"].items()]
    return f"{r['graph']} would fail on {r['target']}: {'; '.join(found)}"


def _layers(r: Mapping[str, Any]) -> str:
    found = ", ".join(r["layers"])
    what = "no layer with weights is" if r["none"] else f"{r['convolutions']} convolution(s) are not"
    return f"{r['graph']} was to be {r['precision']}, but {what}: {found}"


CODES = {
    "range": _range,
    "gate": _gate,
    "rules": _rules,
    "layers": _layers,
    "weight": lambda r: f"the weight {r['tensor']} is not finite in fp16",
    "type": lambda r: f"no type is known of {r['n']} tensors of the graph, the first is {r['first']}",
    "turing": lambda r: f"{r['graph']} has {r['n']} float32 matrix products, the first is {r['first']}",
    "lacks": lambda r: f"precision {r['precision']} for compute capability {r['capability']}",
    "cells": lambda r: f"cells off by {r['error']:.1e} of their largest",
    "no_map": lambda r: f"no tensor of the graph holds the encoder's feature map {tuple(r['shape'])}",
    "error": lambda r: r["said"],
}
"""Code → its sentence.  `error` holds the message of an error without a code, such as TensorRT's parser's."""
