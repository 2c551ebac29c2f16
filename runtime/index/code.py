"""The mask code: a mask in at most 1000 bytes, small enough to store beside its vector in an index.

    version, divisor (1 byte each)   height, width of the mask (2 bytes each)   a WebP image without RIFF

A masker computes logits on a coarser grid, enlarges them bilinearly and applies a sigmoid.  So the code
holds the mask on a grid whose sides are the mask's sides divided by the divisor.  The grid is a least-squares
fit: its logits, enlarged bilinearly, are nearest to the mask's logits.  The finest grid that fits into the
limit is taken, at the highest WebP quality that fits.  `benchmarks.quality.mask_code` measures the error.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

import numpy as np

from runtime.errors import BackendUnavailable, InputError
from runtime.media.decode import pillow

LIMIT = 1000
"""Largest size of a code in bytes."""
_VERSION = 1
_HEADER = struct.Struct("<BBHH")
_DIVISORS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 255)
_LONGEST = 2048  # largest side of a mask: above any graph's grid, and safe to allocate
_SMALL = 64  # masks up to this side may keep their own grid
_QUALITIES = range(3, 99, 3)
_NEAREST = 0.02  # values are moved this far from 0 and 1 before the logit


def encode_mask(mask: np.ndarray) -> bytes:
    """Encode a mask in at most `LIMIT` bytes; fine detail is lost.

    Args:
        mask: float (h, w), on the graph's grid; values outside [0, 1] are clipped.

    Raises:
        InputError: another shape, values that are not finite, or a side longer than 2048.
        BackendUnavailable: this Pillow has no WebP.
    """
    sides = mask.shape
    if mask.ndim != 2 or not mask.size or max(sides) > _LONGEST or not np.isfinite(mask).all():
        raise InputError(
            f"a mask {mask.dtype} {sides}",
            expected=f"finite values (h, w), of 1 to {_LONGEST} a side",
            cure="pass Explanation.graph_mask",
        )
    _check_webp()
    logits = _logit(mask.astype(np.float64))
    for divisor in (1, *_DIVISORS) if max(sides) <= _SMALL else _DIVISORS:
        rows, columns = (_fit(side, _coarse(side, divisor)) for side in sides)
        if image := _squeeze(_squash(rows @ logits @ columns.T)):
            return _HEADER.pack(_VERSION, divisor, *sides) + image
    raise AssertionError("a grid of a few values always fits")


def decode_mask(code: bytes) -> np.ndarray:
    """Decode a mask: float32 (h, w) in [0, 1].

    Raises:
        InputError: bytes that are not a mask code, or one of a newer version.
        BackendUnavailable: this Pillow has no WebP.
    """
    if len(code) < _HEADER.size or len(code) > LIMIT or code[0] != _VERSION:
        raise _unusable(code, f"starts with {code[:6].hex() or 'nothing'}")
    _, divisor, height, width = _HEADER.unpack_from(code)
    if not (divisor and 0 < height <= _LONGEST and 0 < width <= _LONGEST):
        raise _unusable(code, f"is of a mask {height} x {width} through {divisor}")
    _check_webp()
    chunk, pil = code[_HEADER.size :], pillow()
    grid = (_coarse(width, divisor), _coarse(height, divisor))
    try:
        image = pil.open(io.BytesIO(_riff(len(chunk) + 4) + chunk), formats=("WEBP",))
        if image.size != grid:
            raise _unusable(code, f"holds a grid {image.size}, not {grid}")
        levels = np.asarray(image.convert("L"), np.float64) / 255
    except InputError:
        raise
    except Exception as error:  # any error of the decoder means that these bytes are not a code
        raise _unusable(code, f"cannot be decoded ({type(error).__name__}: {error})") from error
    logits = pil.fromarray(_logit(levels).astype(np.float32)).resize((width, height), pil.Resampling.BILINEAR)
    return np.asarray(_squash(np.asarray(logits, np.float64)), np.float32)


def _squeeze(grid: np.ndarray) -> bytes | None:
    """WebP bytes of float64 (h, w) in [0, 1], at the highest quality that fits; None if none fits."""
    image = pillow().fromarray((grid * 255 + 0.5).astype(np.uint8)).convert("RGB")
    best, low, high = None, 0, len(_QUALITIES)
    while low < high:
        middle = (low + high) // 2 if best or low else 0  # the lowest quality first
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=_QUALITIES[middle], method=6)
        chunk = buffer.getvalue()[len(_riff(0)) :]
        if _HEADER.size + len(chunk) <= LIMIT:
            best, low = chunk, middle + 1
        else:
            high = middle
    return best


def _riff(size: int) -> bytes:
    return b"RIFF" + struct.pack("<I", size) + b"WEBP"


def _coarse(side: int, divisor: int) -> int:
    return -(-side // divisor)


@functools.lru_cache(maxsize=32)
def _fit(side: int, cells: int) -> np.ndarray:
    """float64 (cells, side): the least-squares inverse of enlarging `cells` values to `side` bilinearly."""
    at = (np.arange(side) + 0.5) * cells / side - 0.5
    before = np.floor(at).astype(int)
    enlarge = np.zeros((side, cells))
    for cell, weight in ((before, 1 - (at - before)), (before + 1, at - before)):
        np.add.at(enlarge, (np.arange(side), np.clip(cell, 0, cells - 1)), weight)
    return np.linalg.solve(enlarge.T @ enlarge, enlarge.T)


def _logit(values: np.ndarray) -> np.ndarray:
    """Logits of float64 values in [0, 1], which are first scaled into [_NEAREST, 1 - _NEAREST]."""
    inside = _NEAREST + (1 - 2 * _NEAREST) * np.clip(values, 0, 1)
    return np.log(inside / (1 - inside))


def _squash(logits: np.ndarray) -> np.ndarray:
    """The inverse of `_logit`, clipped to [0, 1]."""
    return np.clip((1 / (1 + np.exp(-logits)) - _NEAREST) / (1 - 2 * _NEAREST), 0, 1)


def _check_webp() -> None:
    from PIL import features

    if not features.check("webp"):
        raise BackendUnavailable(
            "this Pillow has no WebP", expected="a Pillow built with libwebp", cure="pip install Pillow"
        )


def _unusable(code: Any, what: str) -> InputError:
    return InputError(
        f"a mask code of {len(code)} bytes {what}",
        expected=f"the result of encode_mask: version {_VERSION}, at most {LIMIT} bytes",
        cure="pass the column mask_code of an index unchanged; if a newer nemu wrote it, use that version",
    )
