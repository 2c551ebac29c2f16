"""Which images a build compares graphs on, judges masks on and fits the level on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.level import IMAGES as LEVEL_IMAGES
from export.metrics import IMAGES
from export.pictures import fitted, spread_over
from runtime.manifest import InputRecord
from runtime.package import REFERENCE
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
    ours, theirs = folder.resolve(), Path(trained_on).resolve()
    seen = theirs.is_dir() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours))
    known = "among them or around them the folder that the masker's configuration names for training"
    return images, f"{source}; {known if seen else 'whether training saw them, nemu does not know'}"


def set_apart(masker: Path, size: InputRecord) -> tuple[np.ndarray, str]:
    """uint8 (N, H, W, 3): what the masker's run set apart, and which these are, for people."""
    files = apart_of(masker)[:LEVEL_IMAGES]
    images = fitted(files, size) if files else np.empty((0, size.height, size.width, 3), np.uint8)
    return images, f"{len(files)} images that training set apart of its folder"
