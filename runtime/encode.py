"""Arrays → the files that others open."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from runtime.atomic import atomic_file
from runtime.decode import pillow
from runtime.errors import InputError

_JPEG_MOST = 65500


def encode_png(array: np.ndarray) -> bytes:
    """uint8 (H, W, 3) or (H, W), or uint16 (H, W) → the bytes of a PNG file.

    Lightly compressed: a tenth larger than at Pillow's default, in a quarter of the time.
    """
    buffer = io.BytesIO()
    pillow().fromarray(array).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def encode_jpeg(array: np.ndarray, *, longest: int | None = None) -> bytes:
    """uint8 (H, W, 3) → the bytes of a JPEG file, made smaller if a side is longer than `longest` pixels.

    Raises:
        InputError: larger than JPEG can be.
    """
    picture = pillow().fromarray(array)
    if longest is not None:
        picture.thumbnail((longest, longest))
    if max(picture.size) > _JPEG_MOST:
        raise InputError(
            f"an overlay of {picture.width} x {picture.height} pixels",
            expected=f"sides of at most {_JPEG_MOST} pixels, which is what JPEG can hold",
            cure="--overlays png, or none",
        )
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def save_png(path: Path, array: np.ndarray, *, force: bool = False) -> Path:
    """Write uint8 (H, W, 3) or (H, W) as PNG, whole or not at all; returns `path`.

    Raises:
        OutputExists: `path` is there and `force` is not given.
    """
    with atomic_file(path, force=force) as temporary:
        temporary.write_bytes(encode_png(array))
    return path
