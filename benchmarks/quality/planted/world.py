"""Scenes with five planted factors, each of which can be changed alone.

Bottom to top: a photograph; a patch of one of a dozen textures; clutter; a red and a blue handwritten
digit.  Every pixel shows exactly one of them (edges are hard), and nothing but the digits is clearly red
or blue, so that a digit's colour need not depend on what lies beneath.

Places come from one random stream, and each factor's content from one of its own.  So `changed=("red",)`
shows another red digit in the same box and leaves every pixel of every other factor as it was.
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.quality.planted.patterns import SHAPES, TEXTURES, shape, texture
from demo import world as demo
from runtime.errors import InputError

SIZE = demo.SIZE
"""Height and width of a scene, pixels."""
FACTORS = ("photograph", "patch", "shapes", "red", "blue")
KINDS = ("standard", "small", "unseen")
"""Large digits; digits of at most 2 % of the image; clutter of shapes that training never shows."""
SPLITS = ("train", "test")

SMALL, LARGE = (18, 23), (30, 48)
"""Smallest and largest side of a digit's box, pixels."""
SMALL_STROKES = int(0.02 * SIZE**2)
"""The most pixels a small digit has."""
CHROMA = 60
"""The largest difference between the channels of a photograph's pixel; more is muted to it."""
PERIODS = {"train": ((8.0, 10.0), (12.0, 14.0)), "test": ((10.5, 11.5), (10.5, 11.5))}
"""Scale of the textures, pixels."""
HUES = {"train": (0.0, 0.7), "test": (0.75, 0.95)}
"""Tints of the textures: the part of each sixth of the colour wheel that a split uses."""

Box = tuple[int, int, int, int]
"""top, left, height, width; pixels"""


@dataclass(frozen=True)
class Scene:
    """One image and its truth."""

    image: np.ndarray
    """uint8 (SIZE, SIZE, 3), RGB."""
    regions: Mapping[str, np.ndarray]
    """bool (SIZE, SIZE) of `patch`, `red` and `blue`: the pixels where it is what one sees."""
    labels: Mapping[str, int]
    """`patch`: index of the texture; `red` and `blue`: 0..9."""


@dataclass(frozen=True)
class Places:
    """Where a scene's things are."""

    patch: Box
    shapes: tuple[Box, ...]
    red: Box
    blue: Box


def scene(index: int, *, split: str, kind: str = "standard", changed: Collection[str] = ()) -> Scene:
    """Scene number `index` of a split; equal arguments give equal scenes.

    Args:
        index: any non-negative integer.  Every fourth standard training scene has small digits.
        split: `train` or `test`; they share no photograph, no writer's digit and no texture's parameters.
        kind: one of KINDS; only test scenes are `unseen`.
        changed: the factors whose content is drawn anew, in the same place, with another label.
    """
    _check(split, kind, changed)
    key = (0, SPLITS.index(split), KINDS.index(kind), index)
    small = kind == "small" or (split == "train" and index % 4 == 3)
    places = _places(np.random.default_rng([*key, 0]), small=small)
    streams = {
        name: [np.random.default_rng([*key, i, n]) for n in range(1 + (name in changed))]
        for i, name in enumerate(FACTORS, start=1)
    }

    photographs = _photographs(split)
    which, rng = _draw(len(photographs), streams["photograph"])
    canvas = demo.crop(photographs[which], rng).copy()

    labels, regions = {}, {name: np.zeros((SIZE, SIZE), bool) for name in ("patch", "red", "blue")}
    labels["patch"], rng = _draw(len(TEXTURES), streams["patch"])
    _window(canvas, places.patch)[:] = _patch(labels["patch"], places.patch, split, rng)
    _window(regions["patch"], places.patch)[:] = True

    for box, (mask, colour) in zip(
        places.shapes, _shapes(places.shapes, kind, streams["shapes"]), strict=True
    ):
        _window(canvas, box)[mask] = colour
        _window(regions["patch"], box)[mask] = False
    for name in ("red", "blue"):
        labels[name], rng = _draw(10, streams[name])
        box = getattr(places, name)
        strokes = _strokes(labels[name], split, box[2], rng)
        _window(canvas, box)[strokes] = _shade(name, rng)
        _window(regions[name], box)[:] = strokes
        _window(regions["patch"], box)[strokes] = False
    return Scene(canvas, regions, labels)


def photograph(index: int, *, split: str) -> np.ndarray:
    """A crop of a photograph with nothing on it, function of the arguments: uint8 (SIZE, SIZE, 3)."""
    rng = np.random.default_rng([0, SPLITS.index(split), index])
    photographs = _photographs(split)
    return demo.crop(photographs[rng.integers(len(photographs))], rng)


def _check(split: str, kind: str, changed: Collection[str]) -> None:
    for what, values, allowed in (
        ("split", [split], SPLITS),
        ("kind", [kind], KINDS[:2] if split == "train" else KINDS),
        ("changed", changed, FACTORS),
    ):
        if unknown := set(values) - set(allowed):
            raise InputError(
                f"{what} {', '.join(sorted(unknown))} of a {split} scene",
                expected=", ".join(allowed),
                cure=f"{what}={allowed[0]!r}" if what != "changed" else f"changed=({FACTORS[0]!r},)",
            )


def _draw(n: int, streams: list[np.random.Generator]) -> tuple[int, np.random.Generator]:
    """A number below n, and the stream to go on with; from a second stream, another number."""
    first, last = streams[0], streams[-1]
    value = int(first.integers(n))
    return (value if last is first else (value + 1 + int(last.integers(n - 1))) % n), last


def _places(rng: np.random.Generator, *, small: bool) -> Places:
    """A patch of 27 to 33 % of the image, two to four shapes, and two disjoint square boxes."""
    area, aspect = rng.uniform(0.275, 0.326) * SIZE**2, np.exp(rng.uniform(-0.26, 0.26))
    height = round(np.sqrt(area * aspect))
    sides = rng.integers(6, 15, rng.integers(2, 5))
    low, high = SMALL if small else LARGE
    a, b = (int(side) for side in rng.integers(low, high + 1, 2))
    # apart along one axis: what is left of it is shared out at random
    first, second = np.sort(rng.integers(0, SIZE - a - b + 1, 2))
    starts = [(int(first), int(rng.integers(0, SIZE - a + 1)))]
    starts += [(int(second) + a, int(rng.integers(0, SIZE - b + 1)))]
    if rng.random() < 0.5:
        starts = [(left, top) for top, left in starts]
    boxes = [(*start, side, side) for start, side in zip(starts, (a, b), strict=True)]
    red, blue = boxes[:: -1 if rng.random() < 0.5 else 1]
    return Places(
        patch=_somewhere(height, round(area / height), rng),
        shapes=tuple(_somewhere(int(side), int(side), rng) for side in sides),
        red=red,
        blue=blue,
    )


def _somewhere(height: int, width: int, rng: np.random.Generator) -> Box:
    top, left = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
    return int(top), int(left), height, width


def _window(canvas: np.ndarray, box: Box) -> np.ndarray:
    """The view of the canvas inside a box."""
    top, left, height, width = box
    return canvas[top : top + height, left : left + width]


def _patch(family: int, box: Box, split: str, rng: np.random.Generator) -> np.ndarray:
    """A texture between a dark and a light tinted grey: uint8 (h, w, 3)."""
    period = rng.uniform(*PERIODS[split][rng.integers(2)])
    dark, light = (
        level + rng.uniform(0, 35) * (_tint(split, rng) - 0.5)
        for level in (rng.uniform(25, 80), rng.uniform(165, 230))
    )
    ends = (light, dark) if rng.random() < 0.5 else (dark, light)
    amount = texture(family, *box[2:], period=period, rng=rng)[..., None]
    return (ends[0] + amount * (ends[1] - ends[0])).astype(np.uint8)


def _tint(split: str, rng: np.random.Generator) -> np.ndarray:
    """A pure colour (3,) in 0..1."""
    hue = (rng.integers(6) + rng.uniform(*HUES[split])) / 6
    return np.array(colorsys.hsv_to_rgb(hue, 1, 1))


def _shapes(
    boxes: tuple[Box, ...], kind: str, streams: list[np.random.Generator]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mask bool (side, side) and colour (3,) of each: yellow, green or grey, never red or blue."""
    names = SHAPES["unseen" if kind == "unseen" else "seen"]
    kinds, rng = [_draw(len(names), streams)[0] for _ in boxes], streams[-1]
    drawn = []
    for box, which in zip(boxes, kinds, strict=True):
        saturation = rng.uniform(0.6, 1) * (rng.random() < 0.7)
        colour = colorsys.hsv_to_rgb(rng.uniform(0.14, 0.42), saturation, rng.uniform(0.3, 1))
        drawn.append((shape(names[which], box[2]), (np.array(colour) * 255).astype(np.uint8)))
    return drawn


def _strokes(label: int, split: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A handwritten digit: bool (side, side); a fat one in a small box is thinned to SMALL_STROKES."""
    images = _digits(split)[label]
    image = Image.fromarray(images[rng.integers(len(images))])
    ink = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    level = np.sort(ink, axis=None)[-SMALL_STROKES - 1] if side <= SMALL[1] else 0
    return ink > max(105, level)


def _shade(name: str, rng: np.random.Generator) -> np.ndarray:
    """A red or a blue, uint8 (3,), clearly neither the other nor grey."""
    low, high = {"red": ((195, 0, 0), (255, 45, 45)), "blue": ((0, 50, 215), (60, 110, 255))}[name]
    return rng.integers(low, np.add(high, 1)).astype(np.uint8)


@functools.cache
def _digits(split: str) -> list[np.ndarray]:
    """uint8 (n, 8, 8) of each digit 0..9."""
    images, labels = demo.digits(split)
    return [images[labels == digit] for digit in range(10)]


@functools.cache
def _photographs(split: str) -> list[np.ndarray]:
    """The demo's photographs, at most 640 pixels large and their strong colours muted; uint8 (H, W, 3)."""
    muted = []
    for photograph in demo.photographs(split):
        image = Image.fromarray(photograph)
        image.thumbnail((640, 640))
        pixels = np.asarray(image, np.float32)
        grey = pixels.mean(axis=2, keepdims=True)
        chroma = np.ptp(pixels, axis=2, keepdims=True)
        muted.append((grey + (pixels - grey) * CHROMA / np.maximum(chroma, CHROMA)).astype(np.uint8))
    return muted
