"""The masker trainings that are compared: each a name and the options of `python -m train` that make it."""

from __future__ import annotations

NEMU = "nemu"
"""The default of `python -m train`."""

_PLAIN = ("--objective", "plain", "--no-centred")
_UNET = ("--masker", "unet", "--learning-rate", "2e-3")
_ZERO, _NOISE = ("--fill", "zero"), ("--fill", "noise")

SETTINGS: dict[str, tuple[str, ...]] = {
    NEMU: (),
    "ranking": ("--objective", "ranking"),
    # the authors' decoder with the authors' objective, fill and weight
    "authors": (*_UNET, *_PLAIN, *_ZERO),
    # the grey mask, on our decoder, and one remedy at a time
    "grey": (*_PLAIN, *_ZERO),
    "grey, weight 3": (*_PLAIN, *_ZERO, "--area-weight", "3"),
    "grey + contrastive": ("--objective", "contrastive", "--no-centred", *_ZERO),
    "grey + centred": ("--objective", "plain", *_ZERO),
    "grey + noise": (*_PLAIN, *_NOISE),
    "grey + mixed": (*_PLAIN, "--fill", "mixed"),
    "grey + root": ("--objective", "sparse", "--no-centred", *_ZERO),
    # ours, and what is lost without one part of it
    "ours without root": ("--objective", "plain"),
    "ours without centring": ("--no-centred",),
    "ours without mixing, zero": _ZERO,
    "ours without mixing, noise": _NOISE,
    "ours on the authors' decoder": _UNET,
}
"""Ours, the authors', the ranking; then the ablation."""

TRAINED = (NEMU, "ranking", "authors")
ABLATION = (NEMU, "ranking", "authors", *list(SETTINGS)[3:])
