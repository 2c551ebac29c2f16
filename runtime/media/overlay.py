"""Draw a mask over its image, on a fixed scale: the same value looks the same in every image.

A scale stretched to each mask's own range would paint a hot spot even where the mask finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import InputError
from runtime.media.decode import pillow

if TYPE_CHECKING:
    import PIL.Image

# Ten steps of matplotlib's inferno.  Its lightness only rises, so that more important is brighter also on a
# grey print and for colour-blind readers; that is not true of rainbows such as turbo.
_ANCHORS = np.array(
    [
        (0x00, 0x00, 0x04), (0x1B, 0x0C, 0x42), (0x4B, 0x0C, 0x6B), (0x78, 0x1C, 0x6D), (0xA5, 0x2C, 0x60),
        (0xCF, 0x44, 0x46), (0xED, 0x69, 0x25), (0xFB, 0x9A, 0x06), (0xF7, 0xD0, 0x3C), (0xFC, 0xFF, 0xA4),
    ],
    np.float32,
)  # fmt: skip
_STEPS = np.linspace(0, 1, 256)
TABLE = np.stack([np.interp(_STEPS, np.linspace(0, 1, 10), channel) for channel in _ANCHORS.T], 1)
"""float64 (256, 3): the colour of importance i / 255, in 0..255."""

STYLES = ("spotlight", "heat")
"""`spotlight`, the default: the image where the mask is 1, dimmed and grey where it is 0, and a line around
the pixels at 1/2 or above.  `heat`: colours over a grey image."""
_OPACITY = 0.7  # opacity of the heat where the mask is 1
_DIM = 0.75  # brightness of the grey image under the heat
_DARK = 0.3  # brightness of the grey image around the spotlight
_UNSEEN = 0.47  # further factor for pixels that the encoder did not see
_LINE = (0, 255, 255)  # line around the spotlight: cyan, rare in photographs and lighter than any dimmed grey


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    valid: tuple[int, int, int, int] | None = None,
    style: str = STYLES[0],
) -> np.ndarray:
    """Draw the mask over a grey copy of the image; every colour comes from the mask.

    `spotlight`: the image's own colours where the mask is 1; the rest is grey and dimmed.  A cyan line just
    outside the pixels at 1/2 or above shows which black, white and grey things are marked.
    `heat`: the mask's colours, with 0.7 times the mask as opacity; unimportant pixels stay grey.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: float (H, W) in [0, 1]; the scale is fixed, never stretched to the image.
        valid: left, top, right, bottom of the pixels that the encoder saw; the rest is drawn darker.
        style: one of STYLES.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: no such style.
    """
    if style not in STYLES:
        raise InputError(f"style {style!r}", expected=" or ".join(STYLES), cure=f"style={STYLES[0]!r}")
    pil = pillow()
    grey = pil.fromarray(image).convert("L")
    dim = _DIM if style == "heat" else _DARK
    under = grey.point(_times(dim if valid is None else dim * _UNSEEN))
    if valid is not None:
        under.paste(grey.crop(valid).point(_times(dim)), valid[:2])
    levels = pil.fromarray(_levels(mask))
    if style == "heat":
        return np.array(pil.composite(_painted(levels), under.convert("RGB"), levels.point(_times(_OPACITY))))
    drawn = under.convert("RGB")
    drawn.paste(pil.fromarray(image), mask=levels)
    drawn.paste(_LINE, mask=_outline(levels))
    return np.array(drawn)


def _outline(levels: PIL.Image.Image) -> PIL.Image.Image:
    """1 on a line just outside the pixels at 1/2 or more, else 0; a single pixel gets no line."""
    from PIL import ImageChops, ImageFilter

    marked = levels.point([0] * 128 + [255] * 128)
    width = max(1, round(min(levels.size) / 250))  # 2 for an image of 500 pixels
    # 32 / 255 is an eighth of the square around a pixel: more than one pixel in the square is marked.
    near = marked.filter(ImageFilter.BoxBlur(width)).point([0] * 32 + [1] * 224, "1")
    return ImageChops.logical_and(near, levels.point([1] * 128 + [0] * 128, "1"))


def heat(mask: np.ndarray) -> np.ndarray:
    """Apply the colour table: float (H, W) in [0, 1] → uint8 (H, W, 3)."""
    return np.array(_painted(pillow().fromarray(_levels(mask))))


def _levels(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W): importance in steps of 1 / 255."""
    return (np.clip(mask, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _painted(levels: PIL.Image.Image) -> PIL.Image.Image:
    """Colour the grey levels."""
    coloured = levels.copy()
    coloured.putpalette((TABLE + 0.5).astype(np.uint8).tobytes())
    return coloured.convert("RGB")


def _times(factor: float) -> list[int]:
    """A table with which Pillow multiplies grey levels."""
    return [round(factor * level) for level in range(256)]


def colour_bar(width: int, height: int = 12) -> np.ndarray:
    """Draw the scale, 0 at the left and 1 at the right: uint8 (height, width, 3)."""
    return heat(np.broadcast_to(np.linspace(0, 1, width), (height, width)))


def grid(rows: Sequence[Sequence[np.ndarray]], *, gap: int = 4) -> np.ndarray:
    """Lay out images in rows and columns, on white.

    Args:
        rows: uint8 (H, W, 3) each; a row is as tall as its tallest image, a column as wide as its
            widest.
        gap: white pixels between them.

    Returns:
        uint8 (H, W, 3).
    """
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    columns = max(map(len, rows))
    widths = [max(row[i].shape[1] for row in rows if i < len(row)) for i in range(columns)]
    canvas = np.full(
        (sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1), 3), 255, np.uint8
    )
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for cell, width in zip(row, widths, strict=False):
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
            left += width + gap
        top += height + gap
    return canvas
