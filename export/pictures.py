"""Folders of photographs that a build takes, on the graph's grid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.image import Geometry, find_images, load_image
from runtime.manifest import InputRecord

FEWEST = 4


def spread_over(
    folder: Path, size: InputRecord, *, option: str, most: int, expected: str
) -> tuple[np.ndarray, int]:
    """At most `most` images, spread evenly over the folder, and how many it holds.

    Args:
        option: that names the folder, for the message.
        expected: what kind of images are wanted, for the message.

    Returns:
        uint8 (N, H, W, 3) as the encoder would see them; the number of files.

    Raises:
        InputError: too few, or one that cannot be read.
    """
    files = find_images(folder)
    if len(files) < FEWEST:
        raise InputError(
            f"{option} {folder} holds {len(files)} images",
            expected=f"at least {FEWEST}, better {most}, {expected}",
            cure=f"add photographs, or leave {option} out to use the reference images",
        )
    return fitted(files[:: max(1, -(-len(files) // most))], size), len(files)


def fitted(files: Iterable[Path], size: InputRecord) -> np.ndarray:
    """uint8 (N, H, W, 3): each file as the encoder would see it.  Raises `InputError`: one is no image."""
    geometry = Geometry.from_record(size)
    return np.stack([geometry.fit(load_image(file))[0] for file in files])
