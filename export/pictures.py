"""Read folders of photographs, at the size of the graph's input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.media.geometry import Geometry, decoded, load_image
from runtime.media.sources import find_images
from runtime.package.records import InputRecord

FEWEST = 4
NAMED = 3
"""Files that a warning names."""


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
    if len(images) < FEWEST:
        raise InputError(
            f"{option} {folder} holds {len(files)} images, of which {len(images)} were read",
            expected=f"at least {FEWEST}, better {most}, {expected}",
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
