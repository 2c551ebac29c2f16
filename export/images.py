"""Which images a build compares graphs on, judges masks on and fits the level on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.package.level import FEWEST
from export.package.level import IMAGES as LEVEL_IMAGES
from export.package.metrics import IMAGES
from export.pictures import readable, spread_over
from runtime.package.reasons import images_used
from runtime.package.records import InputRecord
from train.checkpoint import MaskerFile
from train.run_folder import apart_of

PHOTOGRAPHS = Path(__file__).parent / "photographs"
"""The project's own photographs."""
REFERENCES = 16
"""At most this many reference images are taken from a folder."""


class Chosen(NamedTuple):
    """Images, and which they are."""

    images: np.ndarray
    """uint8 (N, H, W, 3), as the encoder sees them."""
    source: str
    """A code of `runtime.package.reasons.images_used`."""


def reference_images(folder: Path, size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): images spread evenly over the folder, as the encoder sees them."""
    like = "different ones"
    return spread_over(folder, size, option="--reference", most=REFERENCES, expected=like)[0]


def judged_images(
    reference: np.ndarray, size: InputRecord, *, named: Path | None, evaluate: Path | None, trained_on: str
) -> Chosen:
    """The images that metrics are measured on.

    Args:
        reference: the reference images, uint8 (N, H, W, 3).
        named: the folder that they are from; None if they are the project's own.
        evaluate: a folder to take instead of them.
        trained_on: the folder of the training images.
    """
    folder = evaluate or named
    if folder is None:
        return Chosen(reference, f"shipped:{len(reference)}")
    where = f"{'seen' if overlap(folder, trained_on) else 'unknown'}:{folder.resolve().name}"
    if evaluate is None:
        return Chosen(reference, f"reference:{len(reference)}:{where}")
    like = "like those the device will see, and not trained on"
    images, held = spread_over(evaluate, size, option="--evaluate", most=IMAGES, expected=like)
    return Chosen(images, f"evaluate:{len(images)}:{held}:{where}")


def overlap(folder: Path, trained_on: str) -> bool:
    """Whether the two folders are the same, or one lies in the other."""
    ours, theirs = folder.resolve(), Path(trained_on).resolve()
    return theirs.is_dir() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours))


def level_images(
    judged: Chosen, size: InputRecord, *, evaluate: Path | None, masker: MaskerFile, trained_on: str
) -> Chosen:
    """The images that the level is measured on: none that training saw.

    Args:
        judged: from `judged_images`; they are taken if `evaluate` gave enough of them.

    Returns:
        No images, or at least FEWEST.
    """
    why = []
    if evaluate is not None:
        if overlap(evaluate, trained_on):
            why.append(f"{evaluate} overlaps with the folder of the training")
        elif len(judged.images) < FEWEST:
            why.append(f"{evaluate} gave {len(judged.images)} images")
        else:
            return judged
    chosen = set_apart(masker, size)
    found = len(chosen.images)
    if few := found < FEWEST:
        chosen = chosen._replace(images=chosen.images[:0])
        why.append(f"{FEWEST} are needed, and training set apart {found} that can be read")
    if why:
        measured = "not measured" if few else f"measured on {images_used(chosen.source)}"
        cure = f"--evaluate with a folder of {FEWEST} images or more that training did not see"
        print(
            f"warning: what a level of the mask means is {measured}: {'; '.join(why)} (cure: {cure})",
            file=sys.stderr,
        )
    return chosen


def set_apart(masker: MaskerFile, size: InputRecord) -> Chosen:
    """The images that the masker's run set apart and did not train on."""
    images = readable(apart_of(masker)[:LEVEL_IMAGES], size)
    return Chosen(images, f"apart:{len(images)}")
