"""What planted scenes are drawn with: a dozen texture families, and flat shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

Field = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(y, x, period), all in pixels → bool (h, w): where the second colour is."""


def _stripes(u: np.ndarray, period: float) -> np.ndarray:
    return u % period < period / 2


def _dots(y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return np.hypot(y % period - period / 2, x % period - period / 2) < 0.34 * period


def _bricks(y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    row = 0.6 * period
    shifted = x + (y // row % 2) * 0.7 * period
    return (y % row < 2) | (shifted % (1.4 * period) < 2)


def _crosshatch(y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return ((x + y) % period < 0.25 * period) | ((x - y) % period < 0.25 * period)


def _triangles(y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return np.abs(x % period / period - 0.5) * 2 < y % period / period


def _zigzag(y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return _stripes(y + np.abs(x % (2 * period) - period), period)


FIELDS: dict[str, Field] = {
    "horizontal": lambda y, x, p: _stripes(y + 0 * x, p),
    "vertical": lambda y, x, p: _stripes(x + 0 * y, p),
    "diagonal": lambda y, x, p: _stripes((x + y) * 0.7, p),
    "checkerboard": lambda y, x, p: _stripes(x, 1.4 * p) ^ _stripes(y, 1.4 * p),
    "dots": _dots,
    "rings": lambda y, x, p: _stripes(np.hypot(y, x), p),
    "waves": lambda y, x, p: _stripes(x + 0.6 * p * np.sin(y * np.pi / p), 1.2 * p),
    "bricks": _bricks,
    "crosshatch": _crosshatch,
    "triangles": _triangles,
    "zigzag": _zigzag,
}
TEXTURES = (*FIELDS, "noise")
"""The texture families; a patch's label is the index."""


def texture(family: int, height: int, width: int, *, period: float, rng: np.random.Generator) -> np.ndarray:
    """How much of the second colour each pixel has: float32 (height, width) in [0, 1].

    Args:
        family: index into TEXTURES.
        period: scale of the pattern, pixels.
        rng: phase (and the values of the noise).
    """
    name = TEXTURES[family]
    phase = rng.random(2)
    if name == "noise":
        cells = (int(2 * height / period) + 2, int(2 * width / period) + 2)
        coarse = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        return smooth / 255
    # the rings' centre lies in the middle of the patch, everything else starts anywhere
    shift = -(0.3 + 0.4 * phase) * (height, width) if name == "rings" else phase * 4 * period
    y, x = (np.arange(n, dtype=np.float32) + s for n, s in zip((height, width), shift, strict=True))
    return FIELDS[name](y[:, None], x[None], period).astype(np.float32)


SHAPES = {
    "seen": ("disc", "square", "triangle", "bar", "post"),
    "unseen": ("ring", "star", "cross", "crescent"),
}


@functools.cache
def shape(name: str, side: int) -> np.ndarray:
    """One of SHAPES in a box: bool (side, side)."""
    centres = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = centres[:, None], centres[None]  # both in (-1, 1)
    radius, angle = np.hypot(y, x), np.arctan2(x, -y)
    inside = {
        "disc": radius < 1,
        "square": (np.abs(y) < 0.85) & (np.abs(x) < 0.85),
        "triangle": np.abs(x) * 2 < y + 1,
        "bar": (np.abs(y) < 0.4) & (np.abs(x) < 1),
        "post": (np.abs(x) < 0.4) & (np.abs(y) < 1),
        "ring": (radius < 1) & (radius > 0.5),
        "star": radius < 0.7 + 0.3 * np.cos(5 * angle) - 0.1,
        "cross": ((np.abs(y) < 0.3) | (np.abs(x) < 0.3)) & (np.maximum(np.abs(x), np.abs(y)) < 1),
        "crescent": (radius < 1) & (np.hypot(y, x - 0.55) > 0.75),
    }[name]
    return np.asarray(inside)
