"""Prepare images for a package's graph: decode, resize, and remember where the grid lies on the image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError
from runtime.media.geometry import Geometry, ImageLike, Placement, check_channel_order, load_image
from runtime.package.records import InputRecord


class Prepared(NamedTuple):
    """An image that the backend can run."""

    original: np.ndarray
    """uint8 (H0, W0, 3) RGB"""
    fitted: np.ndarray
    """uint8 (height, width, 3), on the graph's grid"""
    placement: Placement
    milliseconds: float


class Preparer:
    """Decodes images and resizes them as the package's manifest says.

    Args:
        record: `Manifest.input`.
        channel_order: `rgb` or `bgr`, of arrays; files and PIL images know their own.

    Raises:
        InputError: another channel order.
    """

    def __init__(self, record: InputRecord, *, channel_order: str = "rgb") -> None:
        check_channel_order(channel_order)
        self.channel_order = channel_order
        self._geometry = Geometry.from_record(record)

    def __call__(self, image: ImageLike) -> Prepared:
        """Prepare one image; raises `InputError` if it cannot be used."""
        started = time.perf_counter()
        original = load_image(image, channel_order=self.channel_order)
        fitted, placement = self._geometry.fit(original)
        return Prepared(original, fitted, placement, 1e3 * (time.perf_counter() - started))

    def numbered(self, image: ImageLike, position: int) -> Prepared:
        """Prepare one image of a list; the error names its position."""
        try:
            return self(image)
        except InputError as error:
            raise InputError(
                f"images[{position}]: {error.came}", expected=error.expected, cure=error.cure
            ) from error

    def black(self) -> np.ndarray:
        """uint8 (1, height, width, 3): a black image, for runs whose outputs nobody reads."""
        return np.zeros((1, self._geometry.height, self._geometry.width, 3), np.uint8)


def batch_of(prepared: Sequence[Prepared]) -> np.ndarray:
    """uint8 (N, height, width, 3); a view if N is 1."""
    one = prepared[0].fitted
    return one[None] if len(prepared) == 1 else np.stack([each.fitted for each in prepared])


def is_several(images: object) -> bool:
    """Whether these are several images: a list, a tuple or an array with four axes."""
    return isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
