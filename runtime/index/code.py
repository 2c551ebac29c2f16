"""The mask code: a mask in at most 1000 bytes, small enough to stand beside its vector in an index.

    version, divisor (1 byte each)   height, width (2 bytes each, of the mask)   a WebP picture without RIFF

A masker computes its mask as logits on a coarser grid, enlarges them bilinearly and squashes them into
[0, 1].  So the code holds the mask on a grid whose sides are those of the mask through the divisor, fitted
so that its logits, enlarged in the same way, come nearest to the mask's.  It is the finest such grid that
fits at all, at the highest quality that does.  How near that is, `benchmarks.mask_code` measures.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

import numpy as np

from runtime.decode import pillow
from runtime.errors import BackendUnavailable, InputError

LIMIT = 1000
"""Bytes, at most."""
_VERSION = 1
_HEADER = struct.Struct("<BBHH")
_DIVISORS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 255)
_LONGEST = 2048  # side of a mask: more than any graph's grid has, less than would exhaust a machine
_SMALL = 64  # a mask of no longer side may keep its own grid
_QUALITIES = range(3, 99, 3)
_NEAREST = 0.02  # to 0 and 1 that a logit is taken of


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask → its code, at most `LIMIT` bytes whatever the mask; the finer it is, the less of it is kept.

    Args:
        mask: float (h, w), on the graph's grid; values outside [0, 1] are clipped.

    Raises:
        InputError: another shape, values that are not finite, or a side of more than 2048.
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
        if picture := _squeeze(_squash(rows @ logits @ columns.T)):
            return _HEADER.pack(_VERSION, divisor, *sides) + picture
    raise AssertionError("a grid of a few values fits into any code")


def decode_mask(code: bytes) -> np.ndarray:
    """A code → float32 (h, w) in [0, 1].

    Raises:
        InputError: bytes that are no mask code, or one of a newer version.
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
        picture = pil.open(io.BytesIO(_riff(len(chunk) + 4) + chunk), formats=("WEBP",))
        if picture.size != grid:
            raise _unusable(code, f"holds a grid {picture.size}, not {grid}")
        levels = np.asarray(picture.convert("L"), np.float64) / 255
    except InputError:
        raise
    except Exception as error:  # whatever a decoder raises means the same: these bytes are no code
        raise _unusable(code, f"cannot be decoded ({type(error).__name__}: {error})") from error
    logits = pil.fromarray(_logit(levels).astype(np.float32)).resize((width, height), pil.Resampling.BILINEAR)
    return np.asarray(_squash(np.asarray(logits, np.float64)), np.float32)


def _squeeze(grid: np.ndarray) -> bytes | None:
    """The WebP picture of float64 (h, w) in [0, 1] at the highest quality that fits; None: none does."""
    picture = pillow().fromarray((grid * 255 + 0.5).astype(np.uint8)).convert("RGB")
    best, low, high = None, 0, len(_QUALITIES)
    while low < high:
        middle = (low + high) // 2 if best or low else 0  # first, whether it fits at all
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=_QUALITIES[middle], method=6)
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
    """float64 in [0, 1] → their logits, kept finite: 0 counts as `_NEAREST`, and so on in proportion."""
    inside = _NEAREST + (1 - 2 * _NEAREST) * np.clip(values, 0, 1)
    return np.log(inside / (1 - inside))


def _squash(logits: np.ndarray) -> np.ndarray:
    """The inverse of `_logit`, in [0, 1] whatever the logits."""
    return np.clip((1 / (1 + np.exp(-logits)) - _NEAREST) / (1 - 2 * _NEAREST), 0, 1)


def _check_webp() -> None:
    from PIL import features

    if not features.check("webp"):
        raise BackendUnavailable(
            "this Pillow has no WebP", expected="one built with libwebp", cure="pip install Pillow"
        )


def _unusable(code: Any, what: str) -> InputError:
    return InputError(
        f"a mask code of {len(code)} bytes {what}",
        expected=f"what encode_mask gives: version {_VERSION}, at most {LIMIT} bytes",
        cure="read the column mask_code of an index as it was written; if a newer nemu wrote it, use that",
    )
