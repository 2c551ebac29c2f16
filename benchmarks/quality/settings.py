"""The masker trainings that are compared: each a name and the options of `python -m train` that make it."""

from __future__ import annotations

from collections.abc import Sequence

NEMU = "nemu"
"""The default of `python -m train`, but without targets."""
TARGETS = "nemu, with targets"
"""The options of the default."""

WEIGHT_HALF = "nemu, weight 0.5"
"""The default as it was before the weight was measured on the encoder."""
_HALF = ("--area-weight", "0.5")
"""The authors' weight."""
_PLAIN = ("--objective", "plain", "--no-centred", *_HALF)
_ZERO = ("--fill", "zero")

SETTINGS: dict[str, tuple[str, ...]] = {
    NEMU: (),
    TARGETS: ("--toward",),
    WEIGHT_HALF: _HALF,
    "ranking": ("--objective", "ranking"),
    # the authors' decoder (the image is a skip), objective (contrastive), fill and weight; optimiser and
    # steps are ours
    "authors": (
        *("--masker", "unet", "--image-skip", "--learning-rate", "2e-3"),
        *("--objective", "contrastive", "--no-centred", *_ZERO, *_HALF),
    ),
    # the grey mask, on our decoder, one remedy at a time, and all but the root
    "grey": (*_PLAIN, *_ZERO),
    "grey + contrastive": ("--objective", "contrastive", "--no-centred", *_ZERO, *_HALF),
    "grey + centred": ("--objective", "plain", *_ZERO, *_HALF),
    "grey + noise": (*_PLAIN, "--fill", "noise"),
    "grey + mixed": (*_PLAIN, "--fill", "mixed"),
    "grey + root": ("--objective", "sparse", "--no-centred", *_ZERO, *_HALF),
    "grey + mixed, centred": ("--objective", "plain", *_HALF),
}
"""Ours, the ranking, the authors'; then the ablation."""

TRAINED = (NEMU, "ranking", "authors")
ABLATION = tuple(name for name in SETTINGS if name not in (WEIGHT_HALF, TARGETS))

SETTINGS["lateral-early"] = ("--masker", "lateral-early")
# the authors' decoder as they have it on a ResNet, at the learning rate that suits it, else trained as ours
SETTINGS["unet"] = ("--masker", "unet", "--image-skip", "--learning-rate", "2e-3")
DECODERS = {"lateral": NEMU, "lateral-early": "lateral-early", "unet": "unet"}
"""Value of `--masker` → the training that differs from the default in nothing else."""

_FAST = ("gradient_shap", "saliency", "lafam", "centre", "random")
_ALL = ("relax", "u_relax", "integrated_gradients", "occlusion", *_FAST)
METHODS: dict[str, tuple[str, ...]] = {
    "digits": (*TRAINED, *_ALL),
    "patch": (NEMU, *_ALL),
    "red": (NEMU, *_ALL),
    "selfsup": (NEMU, *_FAST),
    "convnext": (NEMU, *_FAST),
}
"""What `python -m benchmarks.quality` runs on each encoder, unless told otherwise: hours on two cores."""
REPEATED = {
    "digits": (NEMU, WEIGHT_HALF, "authors", "grey", "grey + root", "grey + mixed, centred"),
    "patch": (NEMU, WEIGHT_HALF),
    "red": (NEMU, WEIGHT_HALF),
}
"""Trainings that are repeated with every seed; the others are run with the first seed only."""


def seeds_of(encoder: str, method: str, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds that a method is run with on an encoder."""
    return seeds if method in REPEATED.get(encoder, ()) else seeds[:1]
