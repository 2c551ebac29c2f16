"""Which images a build compares graphs on, judges masks on and fits the level on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from export.level import FEWEST
from export.level import IMAGES as LEVEL_IMAGES
from export.metrics import IMAGES
from export.pictures import readable, spread_over
from runtime.manifest import InputRecord
from runtime.package import REFERENCE
from train.checkpoint import MaskerFile
from train.folder import apart_of

PHOTOGRAPHS = Path(__file__).parent / "photographs"
"""The project's own."""
REFERENCES = 16
"""At most this many reference images are taken from a folder."""


def reference_images(folder: Path, size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): images spread over the folder, as the encoder would see them."""
    like = "different ones"
    return spread_over(folder, size, option="--reference", most=REFERENCES, expected=like)[0]


def judged_images(
    reference: np.ndarray, size: InputRecord, *, named: Path | None, evaluate: Path | None, trained_on: str
) -> tuple[np.ndarray, str]:
    """The images that metrics are measured on.

    Args:
        reference: the reference images, uint8 (N, H, W, 3).
        named: the folder they are from; None if they are the project's own.
        evaluate: another folder to take, instead of them.

    Returns:
        uint8 (N, H, W, 3); which they are, for people.
    """
    images, folder = reference, evaluate or named
    if folder is None:
        return images, f"the {len(images)} photographs that nemu comes with, which are a sample of nothing"
    name = folder.resolve().name
    source = f"{len(images)} images of the folder `{name}`, which are in {REFERENCE}"
    if evaluate is not None:
        like = "like those the device will see, and not trained on"
        images, held = spread_over(evaluate, size, option="--evaluate", most=IMAGES, expected=like)
        source = f"{len(images)} of the {held} images in the folder `{name}`"
    known = "among them or around them the folder that the masker's configuration names for training"
    seen = overlap(folder, trained_on)
    return images, f"{source}; {known if seen else 'whether training saw them, nemu does not know'}"


def overlap(folder: Path, trained_on: str) -> bool:
    """Whether one of the two folders lies in the other, or is the other."""
    ours, theirs = folder.resolve(), Path(trained_on).resolve()
    return theirs.is_dir() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours))


def level_images(
    judged: tuple[np.ndarray, str],
    size: InputRecord,
    *,
    evaluate: Path | None,
    masker: MaskerFile,
    trained_on: str,
) -> tuple[np.ndarray, str]:
    """The images that the level is measured on: none that training saw, and none if they are too few.

    Args:
        judged: of `judged_images`; they are taken if `evaluate` gave enough of them.

    Returns:
        uint8 (N, H, W, 3), N 0 or at least FEWEST; which they are, for people.
    """
    why = []
    if evaluate is not None:
        if overlap(evaluate, trained_on):
            why.append(f"{evaluate} overlaps with the folder of the training")
        elif len(judged[0]) < FEWEST:
            why.append(f"{evaluate} gave {len(judged[0])} images")
        else:
            return judged
    images, source = set_apart(masker, size)
    found = len(images)
    if few := found < FEWEST:
        images = images[:0]
        why.append(f"{FEWEST} are needed, and training set apart {found} that can be read")
    if why:
        measured = "not measured" if few else f"measured on {source}"
        cure = f"--evaluate with a folder of {FEWEST} images or more that training did not see"
        print(
            f"warning: what a level of the mask means is {measured}: {'; '.join(why)} (cure: {cure})",
            file=sys.stderr,
        )
    return images, source


def set_apart(masker: MaskerFile, size: InputRecord) -> tuple[np.ndarray, str]:
    """uint8 (N, H, W, 3): what the masker's run set apart, and which these are, for people."""
    images = readable(apart_of(masker)[:LEVEL_IMAGES], size)
    return images, f"{len(images)} images that training set apart of its folder"
