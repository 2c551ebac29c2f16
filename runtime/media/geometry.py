"""Geometry: how an image is resized to the graph's grid, and how a mask is resized back.

`Geometry.fit` makes the graph's input from an image, and a `Placement`, which says where the graph's grid
lies on the image.  `Placement.restore` maps a mask from that grid back to the image's pixels.  No other
module of the project resizes images for the graph.

    image (H0, W0) ──box, one Pillow resize──▶ grid (height, width) ──graph──▶ mask (height, width)
       mask (H0, W0) ◀──────────────── Placement.restore ────────────────────────────┘
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from runtime.errors import InputError
from runtime.media.decode import ImageLike, check_channel_order, load_image, pillow
from runtime.package.records import InputRecord

__all__ = ["Box", "Geometry", "ImageLike", "Placement", "check_channel_order", "load_image"]

RESIZES = ("crop", "squash", "letterbox")
INTERPOLATIONS = ("bilinear", "bicubic")
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are exclusive."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the graph's grid lies on the original image."""

    size: tuple[int, int]
    """height, width of the original image."""
    grid: tuple[int, int]
    """height, width of the graph's input and mask."""
    box: tuple[float, float, float, float]
    """left, top, right, bottom in original pixels: the part of the image that fills `content`."""
    content: Box
    """The part of the grid that holds the image; the rest is padding."""

    @property
    def valid(self) -> Box:
        """The box of original pixels that reached the encoder, at least in part."""
        left, top, right, bottom = self.box
        return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)

    def restore(self, mask: np.ndarray) -> np.ndarray:
        """Map a mask from the graph's grid to the original pixels.

        Args:
            mask: float32, of shape `grid`.

        Returns:
            float32, of shape `size`, in [0, 1]; bilinear inside `valid`, 0 outside.  Where the grid is the
            image itself, the values are `mask`'s own.

        Raises:
            InputError: the mask has another shape.
        """
        if mask.shape != self.grid:
            raise InputError(
                f"a mask {mask.shape}", expected=f"a mask {self.grid}", cure="pass the graph's own mask"
            )
        left, top, right, bottom = self.valid
        cells = self._cells(mask, (bottom - top, right - left))
        whole = np.zeros(self.size, np.float32)
        whole[top:bottom, left:right] = np.clip(cells, 0, 1)
        return whole

    def _cells(self, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resample the mask to `valid`, whose size is `size` (height, width)."""
        left, top, right, bottom = self.content
        part = np.asarray(mask[top:bottom, left:right], np.float32)
        # `valid` may reach beyond `box` by a fraction of a pixel; there the edge of the mask is repeated.
        sides = [
            _overhang(self.box[axis], self.box[axis + 2], part.shape[1 - axis]) for axis in (1, 0)
        ]  # rows, then columns: (before, after) in cells
        if part.shape == size and not any(map(any, sides)):
            return part
        pad = [(math.ceil(before), math.ceil(after)) for before, after in sides]
        source = (
            pad[1][0] - sides[1][0],
            pad[0][0] - sides[0][0],
            pad[1][0] + part.shape[1] + sides[1][1],
            pad[0][0] + part.shape[0] + sides[0][1],
        )
        image = pillow()
        return np.asarray(
            image.fromarray(np.pad(part, pad, mode="edge")).resize(
                size[::-1], image.Resampling.BILINEAR, box=source
            )
        )


def _overhang(start: float, end: float, cells: int) -> tuple[float, float]:
    """How far whole pixels reach beyond [start, end) on each side, in cells."""
    scale = cells / (end - start)
    return (start - math.floor(start)) * scale, (math.ceil(end) - end) * scale


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image of any size becomes the graph's input.

    `crop`: the shorter side is scaled to size / crop_pct and the centre is cut out: timm's evaluation
    transform, with its rounding of sizes.  It is computed from a box of the image, so that an extreme shape
    needs no large intermediate image.  Pillow keeps boxes in single precision, which breaks ties
    differently: on photographs 0.1 % of the values (3 % at worst) differ from timm's by 1, very few by 2.
    `squash`: each side is scaled to size / crop_pct, and the centre is cut out; the aspect ratio changes.
    `letterbox`: the whole image is scaled with its aspect ratio and centred on black (0).

    Raises:
        InputError: a rule or interpolation that does not exist, or a crop_pct outside (0, 1] or, for
            `letterbox`, other than 1.
    """

    height: int
    width: int
    resize: str
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("resize", self.resize, RESIZES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in allowed:
                raise InputError(
                    f"{name}={value!r}", expected=" or ".join(allowed), cure=f"choose one of them as {name}"
                )
        if not 0 < self.crop_pct <= 1 or (self.resize == "letterbox" and self.crop_pct != 1):
            raise InputError(
                f"crop_pct={self.crop_pct} with resize={self.resize!r}",
                expected="0 < crop_pct <= 1, and 1 for letterbox, which cuts nothing off",
                cure="set crop_pct=1.0, or another rule",
            )
        if min(self.height, self.width) < 1:
            raise InputError(
                f"size {self.height}x{self.width}",
                expected="at least 1x1",
                cure="give the size the graph was exported with",
            )

    @classmethod
    def from_record(cls, record: InputRecord) -> Geometry:
        """Make the geometry that a package's manifest states."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(cls)})

    @functools.lru_cache(maxsize=64)  # noqa: B019, equal geometries are one key
    def place(self, height: int, width: int) -> Placement:
        """Where the grid lies on an image of this size; the results for the last sizes are cached."""
        grid = (self.height, self.width)
        box: tuple[float, float, float, float] = (0.0, 0.0, float(width), float(height))
        content = (0, 0, self.width, self.height)
        if self.resize != "letterbox":
            box = self._crop_box(height, width)
        else:
            scale = min(self.height / height, self.width / width)
            rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
            top, left = (self.height - rows) // 2, (self.width - columns) // 2
            content = (left, top, left + columns, top + rows)
        return Placement(size=(height, width), grid=grid, box=box, content=content)

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """Resize an image to the graph's input.

        Args:
            image: uint8 (H, W, 3), of any size; from `load_image`.

        Returns:
            uint8 (height, width, 3), and where it lies on the image.  An image that needs no change is
            returned itself, and one that is only cut is returned as a view: nothing is copied.
        """
        placement = self.place(*image.shape[:2])
        left, top, right, bottom = placement.content
        size = (right - left, bottom - top)
        x, y = int(placement.box[0]), int(placement.box[1])
        if (bottom - top, right - left) == placement.size and placement.box == (0, 0, *size):
            content = image
        elif placement.box == (x, y, x + size[0], y + size[1]):  # cut out, pixel for pixel
            content = image[y : y + size[1], x : x + size[0]]
        else:
            content = _resample(image, size, placement.box, self.interpolation)
        if content.shape[:2] == placement.grid:
            return content, placement
        fitted = np.zeros((*placement.grid, 3), np.uint8)
        fitted[top:bottom, left:right] = content
        return fitted, placement

    def _crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """left, top, right, bottom in the image, as timm's Resize and CenterCrop compute it."""
        rows, columns = (math.floor(side / self.crop_pct) for side in (self.height, self.width))
        if self.resize == "squash":
            scaled = [rows, columns]
        elif rows == columns:  # torchvision's Resize(int): the longer side is truncated
            short = min(height, width)
            scaled = [int(rows * side / short) for side in (height, width)]
        else:  # timm's ResizeKeepRatio
            ratio = min(height / rows, width / columns)
            scaled = [round(side / ratio) for side in (height, width)]
        top, left = (
            round((whole - part) / 2) for whole, part in zip(scaled, (self.height, self.width), strict=True)
        )
        return (
            left * width / scaled[1],
            top * height / scaled[0],
            (left + self.width) * width / scaled[1],
            (top + self.height) * height / scaled[0],
        )


def _resample(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float], interpolation: str
) -> np.ndarray:
    """Scale a box of uint8 (H, W, 3) to `size` (width, height), antialiased.

    Columns are scaled first, then rows, as in Pillow up to 12.  Pillow 13 chooses the order by the shape, and
    the bytes between the passes are rounded and clipped, so that the two orders differ by up to 26 on noise.
    With a fixed order an image gives the same pixels with every version of Pillow.
    """
    pil = pillow()
    left, top, right, bottom = box
    reach = {"bilinear": 1, "bicubic": 2}[interpolation] * max(1.0, (bottom - top) / size[1]) + 1
    first, last = max(0, math.floor(top - reach)), min(image.shape[0], math.ceil(bottom + reach))
    method = pil.Resampling[interpolation.upper()]
    rows = pil.fromarray(image[first:last]).resize(
        (size[0], last - first), method, box=(left, 0, right, last - first)
    )
    return np.asarray(rows.resize(size, method, box=(0, top - first, size[0], bottom - first)))


def decoded(files: Iterable[Path], geometry: Geometry) -> tuple[np.ndarray, list[Path]]:
    """Decode and resize files.

    Returns:
        uint8 (N, H, W, 3), and the files that cannot be read.
    """
    images, unreadable = [], []
    for file in files:
        try:
            images.append(geometry.fit(load_image(file))[0])
        except InputError:
            unreadable.append(file)
    empty = np.empty((0, geometry.height, geometry.width, 3), np.uint8)
    return (np.stack(images) if images else empty), unreadable
