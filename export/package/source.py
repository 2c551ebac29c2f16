"""What a package is made from: the masker with its encoder, and the images.

Graphs are compared on the reference images, masks are judged and their level is fitted on others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.package.level import FEWEST
from runtime.errors import InputError
from runtime.media.geometry import Geometry, decoded, load_image
from runtime.media.sources import find_images
from runtime.package.reasons import images_used
from runtime.package.records import InputRecord, TrainingRecord
from train.checkpoint import MaskerFile
from train.nem import NEM
from train.run_folder import apart_of, run_of

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"
"""The project's own photographs."""
REFERENCES, MOST = 16, 64
"""At most this many reference images, and images for another purpose, are taken from a folder."""
LEAST = 4
"""Fewer images of a folder are refused."""
NAMED = 3
"""Files that a warning names."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files and folders that a package is made from, and its precision."""

    masker: Path
    weights: str | None = None
    """Where the encoder's weights are now; None: where the masker's configuration says."""
    reference: Path | None = None
    """Folder of photographs that may be shipped; None takes the project's own."""
    calibration: Path | None = None
    """Folder of photographs for int8's ranges, and for the check of fp16's range; None takes the reference
    images."""
    evaluate: Path | None = None
    """Folder of photographs that the card's metrics are measured on; None takes the reference images."""
    precision: str = "auto"
    """One of `runtime.package.folder.GRAPHS`: its graphs are added to the fp32 one.  `auto` adds fp16, else
    bf16, else neither."""
    simplify: bool = True


class Trained(NamedTuple):
    """A masker with its encoder, and what is known of its training."""

    file: MaskerFile
    nem: NEM
    run: TrainingRecord | None
    """None if the folder of the run is not around the masker."""


class Chosen(NamedTuple):
    """Images, and which they are."""

    images: np.ndarray
    """uint8 (N, H, W, 3), as the encoder sees them."""
    source: str
    """A code of `runtime.package.reasons.images_used`."""


class Images(NamedTuple):
    """All images of a build, uint8 (N, H, W, 3), as the encoder sees them."""

    reference: np.ndarray
    """Images that graphs and engines are compared on; they are shipped."""
    calibration: np.ndarray | None
    """None if no folder was named."""
    calibration_source: str
    """`folder:NAME`, or `reference`."""
    judged: Chosen
    """Images that the metrics are measured on."""
    unseen: Chosen
    """Images that training did not see, which the level is measured on; empty if there are too few."""


def load_trained(source: Source) -> Trained:
    """Open the masker and its encoder.

    Raises:
        InputError, MaskerMismatch, SchemaError: see `train.checkpoint.MaskerFile`, `train.run_folder.run_of`.
    """
    file = MaskerFile.open(source.masker)
    trained = Trained(file, file.nem(weights=source.weights), run_of(file))
    if trained.run is not None and trained.run.fault:
        print(f"warning: {trained.run.fault}", file=sys.stderr)
    return trained


def load_images(source: Source, file: MaskerFile, size: InputRecord) -> Images:
    """Read the images of every folder.

    Raises:
        InputError: a folder holds too few images that can be read.
    """
    reference = reference_images(source.reference or PHOTOGRAPHS, size)
    judged = _judged(reference, source, size, trained_on=file.config.data)
    unseen = level_images(judged, size, evaluate=source.evaluate, masker=file)
    folder = source.calibration
    if folder is None:
        return Images(reference, None, "reference", judged, unseen)
    return Images(reference, calibration_images(folder, size), f"folder:{folder.name}", judged, unseen)


def reference_images(folder: Path, size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): images spread evenly over the folder, as the encoder sees them."""
    like = "different ones"
    return spread_over(folder, size, option="--reference", most=REFERENCES, expected=like)[0]


def calibration_images(folder: Path, size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): images spread evenly over the folder, as the encoder sees them."""
    like = "like those the device will see"
    return spread_over(folder, size, option="--calibration", most=MOST, expected=like)[0]


def _judged(reference: np.ndarray, source: Source, size: InputRecord, *, trained_on: str) -> Chosen:
    """The images that metrics are measured on: those of `--evaluate`, or the reference images."""
    folder = source.evaluate or source.reference
    if folder is None:
        return Chosen(reference, f"shipped:{len(reference)}")
    where = f"{'seen' if overlap(folder, trained_on) else 'unknown'}:{folder.resolve().name}"
    if source.evaluate is None:
        return Chosen(reference, f"reference:{len(reference)}:{where}")
    like = "like those the device will see, and not trained on"
    images, held = spread_over(folder, size, option="--evaluate", most=MOST, expected=like)
    return Chosen(images, f"evaluate:{len(images)}:{held}:{where}")


def overlap(folder: Path, trained_on: str) -> bool:
    """Whether the two folders are the same, or one lies in the other."""
    ours, theirs = folder.resolve(), Path(trained_on).resolve()
    return theirs.is_dir() and (ours.is_relative_to(theirs) or theirs.is_relative_to(ours))


def level_images(judged: Chosen, size: InputRecord, *, evaluate: Path | None, masker: MaskerFile) -> Chosen:
    """The images that the level is measured on: none that training saw.

    Args:
        judged: the images that metrics are measured on; they are taken if `evaluate` gave enough of them.

    Returns:
        No images, or at least FEWEST.
    """
    why = []
    if evaluate is not None:
        if overlap(evaluate, masker.config.data):
            why.append(f"{evaluate} overlaps with the folder of the training")
        elif len(judged.images) < FEWEST:
            why.append(f"{evaluate} gave {len(judged.images)} images")
        else:
            return judged
    images = readable(apart_of(masker)[:MOST], size)  # those that the run set apart
    chosen = Chosen(images, f"apart:{len(images)}")
    if few := len(images) < FEWEST:
        why.append(f"{FEWEST} are needed, and training set apart {len(images)} that can be read")
        chosen = chosen._replace(images=images[:0])
    if why:
        measured = "not measured" if few else f"measured on {images_used(chosen.source)}"
        cure = f"--evaluate with a folder of {FEWEST} images or more that training did not see"
        print(
            f"warning: what a level of the mask means is {measured}: {'; '.join(why)} (cure: {cure})",
            file=sys.stderr,
        )
    return chosen


def spread_over(
    folder: Path, size: InputRecord, *, option: str, most: int, expected: str
) -> tuple[np.ndarray, int]:
    """At most `most` images, spread evenly over the folder, and how many it holds.

    Args:
        option: the option that names the folder, for the message.
        expected: what kind of images are wanted, for the message.

    Returns:
        uint8 (N, H, W, 3) as the encoder would see them; the number of files.

    Raises:
        InputError: too few that can be read.
    """
    files = find_images(folder)
    images = readable(files[:: max(1, -(-len(files) // most))], size)
    if len(images) < LEAST:
        raise InputError(
            f"{option} {folder} holds {len(files)} images, of which {len(images)} were read",
            expected=f"at least {LEAST}, better {most}, {expected}",
            cure=f"add photographs, or leave {option} out to use the reference images",
        )
    return images, len(files)


def readable(files: Sequence[Path], size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): the files that can be read; a warning counts and names the others."""
    images, others = decoded(files, Geometry.from_record(size))
    if others:
        names = ", ".join(str(path) for path in others[:NAMED]) + (", …" if len(others) > NAMED else "")
        print(f"warning: {len(others)} images cannot be read and are left out: {names}", file=sys.stderr)
    return images


def fitted(files: Iterable[Path], size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): each file as the encoder would see it; raises `InputError` if one is no image."""
    geometry = Geometry.from_record(size)
    return np.stack([geometry.fit(load_image(file))[0] for file in files])
