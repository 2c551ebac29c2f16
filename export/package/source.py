"""What a package is made from: the masker with its encoder, and the images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.images import PHOTOGRAPHS, Chosen, judged_images, level_images, reference_images
from export.int8.calibrate import calibration_images
from runtime.package.records import InputRecord, TrainingRecord
from train.checkpoint import MaskerFile
from train.nem import NEM
from train.run_folder import run_of


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
    judged = judged_images(
        reference, size, named=source.reference, evaluate=source.evaluate, trained_on=file.config.data
    )
    unseen = level_images(judged, size, evaluate=source.evaluate, masker=file, trained_on=file.config.data)
    folder = source.calibration
    calibration = None if folder is None else calibration_images(folder, size)
    return Images(
        reference, calibration, "reference" if folder is None else f"folder:{folder.name}", judged, unseen
    )
