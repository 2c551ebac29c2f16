"""Pictures in: decoding, the ONLY resize of the project and its inverse, finding.

A picture becomes the graph's input by `Geometry.fit`, which also says where the graph's grid lies on
the picture (`Placement`); `Placement.restore` brings a mask from that grid back to the picture's pixels.

    picture (H0, W0) ──box, one Pillow resize──▶ grid (height, width) ──graph──▶ mask (height, width)
         mask (H0, W0) ◀──────────────── Placement.restore ────────────────────────────┘
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.decode import ImageLike, check_channel_order, load_image, pillow
from runtime.errors import InputError
from runtime.manifest import InputRecord

__all__ = [
    "EXTENSIONS",
    "Box",
    "Geometry",
    "ImageLike",
    "Placement",
    "check_channel_order",
    "find_images",
    "load_image",
]

RESIZES = ("crop", "squash", "letterbox")
INTERPOLATIONS = ("bilinear", "bicubic")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""What `find_images` takes for a picture, in any case."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are not part of it."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the graph's grid lies on the original picture."""

    size: tuple[int, int]
    """height, width of the original picture."""
    grid: tuple[int, int]
    """height, width of the graph's input and mask."""
    box: tuple[float, float, float, float]
    """left, top, right, bottom in original pixels: the part of the picture that fills `content`."""
    content: Box
    """The part of the grid that holds picture; what lies outside it is padding."""

    @property
    def valid(self) -> Box:
        """The original pixels that reached the encoder, also those that did so in part."""
        left, top, right, bottom = self.box
        return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)

    def restore(self, mask: np.ndarray) -> np.ndarray:
        """A mask on the graph's grid → the same mask on the original pixels.

        Args:
            mask: float32 `grid`.

        Returns:
            float32 `size`, in [0, 1]; bilinear inside `valid`, 0 outside.  Where grid and picture are
            one and the same, the values are `mask`'s own.

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
        """The mask resampled to `valid`, which is `size` (height, width) pixels large."""
        left, top, right, bottom = self.content
        part = np.asarray(mask[top:bottom, left:right], np.float32)
        # `valid` may reach beyond `box` by a fraction of a pixel; there the mask's edge is continued.
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
    """How far whole pixels reach beyond [start, end) on either side, in units of its cells."""
    scale = cells / (end - start)
    return (start - math.floor(start)) * scale, (math.ceil(end) - end) * scale


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a picture of any size becomes the graph's input.

    `crop`: the shorter side is scaled to size / crop_pct and the centre is cut out: timm's evaluation
    transform, its rounding of sizes included.  It is computed from a box of the picture, so that an
    extreme shape needs no large intermediate.  Pillow keeps boxes in single precision, which breaks ties
    differently: on photographs 0.1 % of the values (3 % at worst) differ from timm's by 1, very few by 2.
    `squash`: both sides are scaled on their own, to size / crop_pct, and the centre is cut out; the aspect
    ratio is not kept.
    `letterbox`: the whole picture, aspect ratio kept, centred on black (0).

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
        """The geometry that a package's manifest states."""
        return cls(
            height=record.height,
            width=record.width,
            resize=record.resize,
            crop_pct=record.crop_pct,
            interpolation=record.interpolation,
        )

    def place(self, height: int, width: int) -> Placement:
        """Where the grid lies on a picture of this size; the last sizes are remembered."""
        return _place(self, height, width)

    def _place(self, height: int, width: int) -> Placement:
        grid = (self.height, self.width)
        box: tuple[float, float, float, float] = (0.0, 0.0, float(width), float(height))
        content = (0, 0, self.width, self.height)
        if self.resize != "letterbox":
            box = self._crop_box(height, width)
        elif self.resize == "letterbox":
            scale = min(self.height / height, self.width / width)
            rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
            top, left = (self.height - rows) // 2, (self.width - columns) // 2
            content = (left, top, left + columns, top + rows)
        return Placement(size=(height, width), grid=grid, box=box, content=content)

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """A picture → the graph's input, and where it lies.

        Args:
            image: uint8 (H, W, 3), of any size; from `load_image`.

        Returns:
            uint8 (height, width, 3), and the placement.  A picture that needs no change is returned as it
            is, and of one that is only cut a view: nothing is copied.
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
        """left, top, right, bottom in the picture, as timm's Resize and CenterCrop have it."""
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


@functools.lru_cache(maxsize=64)
def _place(geometry: Geometry, height: int, width: int) -> Placement:
    return geometry._place(height, width)


def _resample(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float], interpolation: str
) -> np.ndarray:
    """A box of uint8 (H, W, 3), scaled to `size` (width, height), antialiased.

    Columns first, then rows, as Pillow up to 12 does it.  Pillow 13 chooses the order by the shape, and
    the bytes between the passes are rounded and clipped, so that two orders differ by 26 on noise.  Fixed
    here, the same picture gives the same pixels with every Pillow.
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


def find_images(path: Path) -> list[Path]:
    """Every picture below a folder, recursively, sorted; or the file itself, if `path` is one.

    A picture is what has one of `EXTENSIONS`; hidden files and folders are left out.

    Raises:
        InputError: nothing there, or no picture in it.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    pictures = sorted(file for file in found if file.suffix.lower() in EXTENSIONS)
    if not pictures:
        what = f"holds no images ({len(found)} other files)" if path.is_dir() else "does not exist"
        raise InputError(
            f"{path} {what}",
            expected="an image, or a folder with " + ", ".join(EXTENSIONS),
            cure="check the path",
        )
    return pictures


def decoded(files: Iterable[Path], geometry: Geometry) -> tuple[np.ndarray, list[Path]]:
    """The images that can be read, uint8 (N, H, W, 3) as the encoder takes them; the files that cannot."""
    images, unreadable = [], []
    for file in files:
        try:
            images.append(geometry.fit(load_image(file))[0])
        except InputError:
            unreadable.append(file)
    empty = np.empty((0, geometry.height, geometry.width, 3), np.uint8)
    return (np.stack(images) if images else empty), unreadable
