"""The masker trainings that are compared: each a name and the options of `python -m train` that make it."""

from __future__ import annotations

NEMU = "nemu"
"""The default of `python -m train`."""

_PLAIN = ("--objective", "plain", "--no-centred")
_ZERO = ("--fill", "zero")

SETTINGS: dict[str, tuple[str, ...]] = {
    NEMU: (),
    "ranking": ("--objective", "ranking"),
    # the authors' decoder with the authors' objective, fill and weight
    "authors": ("--masker", "unet", "--learning-rate", "2e-3", *_PLAIN, *_ZERO),
    # the grey mask, on our decoder, one remedy at a time, and all but the root
    "grey": (*_PLAIN, *_ZERO),
    "grey + contrastive": ("--objective", "contrastive", "--no-centred", *_ZERO),
    "grey + centred": ("--objective", "plain", *_ZERO),
    "grey + noise": (*_PLAIN, "--fill", "noise"),
    "grey + mixed": (*_PLAIN, "--fill", "mixed"),
    "grey + root": ("--objective", "sparse", "--no-centred", *_ZERO),
    "grey + mixed, centred": ("--objective", "plain"),
}
"""Ours, the authors', the ranking; then the ablation."""

TRAINED = (NEMU, "ranking", "authors")
ABLATION = (NEMU, "ranking", "authors", *list(SETTINGS)[3:])
