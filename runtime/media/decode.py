"""Decode a path, bytes, a PIL image or an array to RGB uint8 (H, W, 3), or refuse it."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from runtime.errors import BackendUnavailable, InputError

if TYPE_CHECKING:
    import PIL.Image

OneImage = Union[str, "os.PathLike[str]", bytes, "PIL.Image.Image"]
ImageLike = OneImage | np.ndarray
"""A path, the bytes of an image file, a PIL image, or a uint8 array of a shape in `load_image`."""

CHANNEL_ORDERS = ("rgb", "bgr")
_EXPECTED_ARRAY = "a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), at least one pixel"
_ORIENTATION = 0x0112  # the EXIF tag
_ONE_LOADS = threading.Lock()  # two threads may get the same PIL image, which must not be loaded twice


def load_image(image: ImageLike, *, channel_order: str = "rgb") -> np.ndarray:
    """Decode an image to RGB.

    EXIF rotation is applied; transparency is blended with white; grey is repeated in three channels;
    16-bit grey is scaled to 8 bits (v / 257, rounded); CMYK and palettes are converted by Pillow.  An
    animation gives its first frame; a PIL image gives its current frame.

    Args:
        image: path, bytes of an image file, PIL image, or uint8 ndarray (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4).
        channel_order: `rgb` or `bgr`: the order of an ndarray's channels (OpenCV's frames are `bgr`).
            Files and PIL images know their own order; this does not change them.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous.  An array that is so already is returned itself, not copied.

    Raises:
        InputError: a missing or truncated file, a file that is no image or is larger than Pillow's limit
            against decompression bombs, or an array of another dtype or layout.
    """
    check_channel_order(channel_order)
    if isinstance(image, np.ndarray):
        return _from_array(image, channel_order)
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(image), f"the {len(image)} bytes given")
    if isinstance(image, pillow().Image):
        with _ONE_LOADS:
            return _from_pil(image, f"the PIL image (mode {image.mode}, size {image.size})")
    raise InputError(
        f"a {type(image).__module__}.{type(image).__qualname__} came as an image",
        expected="a path, the bytes of an image file, a PIL image or a uint8 numpy array (H, W, 3)",
        cure="convert it to a numpy array first; a tensor (3, H, W): tensor.permute(1, 2, 0).cpu().numpy()",
    )


def check_channel_order(channel_order: str) -> None:
    """Raise `InputError` unless `channel_order` is one of `CHANNEL_ORDERS`."""
    if channel_order not in CHANNEL_ORDERS:
        raise InputError(
            f"channel_order={channel_order!r}",
            expected="'rgb' or 'bgr'",
            cure="channel_order='bgr' for OpenCV's frames, 'rgb' for everything else",
        )


def _from_array(array: np.ndarray, channel_order: str) -> np.ndarray:
    came = f"an array {array.dtype} {array.shape}"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8:
        cure = {
            "f": "(array * 255).round().astype(np.uint8), if its values lie in 0..1",
            "u": "(array / 257).round().astype(np.uint8), if it holds 16-bit grey values",
            "b": "array.astype(np.uint8) * 255",
        }.get(array.dtype.kind, "array.astype(np.uint8), if its values lie in 0..255")
        raise InputError(came, expected=_EXPECTED_ARRAY, cure=cure)
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        cure = "pass one image, channels last"
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            cure = "channels go last: array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            cure = "pass a batch to the Explainer, or one image: array[0]"
        elif array.size == 0:
            cure = "check the frame that was read: it holds no pixels"
        raise InputError(came, expected=_EXPECTED_ARRAY, cure=cure)
    if channels == 1:
        return _grey(array.reshape(array.shape[:2]))
    if channels == 4:
        array = _over_white(array)
    if channel_order == "bgr":
        array = array[..., ::-1]
    return np.ascontiguousarray(array)


def _grey(array: np.ndarray) -> np.ndarray:
    """Repeat grey in three channels: uint8 (H, W) → uint8 (H, W, 3)."""
    return np.repeat(array[..., None], 3, axis=2)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """Blend uint8 (H, W, 4) with white → uint8 (H, W, 3): (c·a + 255·(255 − a)) / 255, rounded."""
    alpha = rgba[..., 3:].astype(np.uint16)
    blended = rgba[..., :3] * alpha + 255 * (255 - alpha)  # at most 65025
    return ((blended + 127) // 255).astype(np.uint8)


def _from_path(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return _decode(file, str(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        known: dict[type[Exception], str] = {
            FileNotFoundError: "does not exist",
            IsADirectoryError: "is a folder",
        }
        what = known.get(type(error), f"cannot be read ({getattr(error, 'strerror', None) or error})")
        raise InputError(
            f"{path} {what}",
            expected="the path of an image file",
            cure="check the path; for a whole folder: nemu explain PACKAGE FOLDER --out DIR",
        ) from error


def _decode(file: Any, source: str) -> np.ndarray:
    pil = pillow()
    try:
        opened = pil.open(file)
    except pil.UnidentifiedImageError as error:
        file.seek(0)
        raise InputError(
            f"{source} is not an image (it starts with {file.read(12)!r})",
            expected="an image file that Pillow reads, such as JPEG, PNG, WebP or TIFF",
            cure="check that it is what its name says: file NAME",
        ) from error
    except pil.DecompressionBombError as error:
        raise InputError(
            f"{source}: {error}",
            expected="an image within Pillow's limit against decompression bombs",
            cure="make it smaller first; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS in your program",
        ) from error
    except Exception as error:  # a broken header: Pillow's plugins raise many kinds
        raise _broken(source, error) from error
    with opened:
        return _from_pil(opened, source)


def _from_pil(image: PIL.Image.Image, source: str) -> np.ndarray:
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(
            f"{source} holds no pixels", expected="at least one pixel", cure="check how it was made"
        )
    try:
        image.load()
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _from_deep(np.asarray(image), image.info.get("transparency"), source)
        if image.has_transparency_data:
            return _over_white(np.asarray(image.convert("RGBA")))
        return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # whatever a decoder raises, these bytes are no image
        raise _broken(source, error) from error


def _from_deep(array: np.ndarray, transparent: Any, source: str) -> np.ndarray:
    """Scale 16-bit grey (int32 in older Pillow) to 8 bits → uint8 (H, W, 3)."""
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > 65535:
        raise InputError(
            f"{source} holds {array.dtype} values from {array.min()} to {array.max()}",
            expected="8 bits a channel, or 16-bit grey",
            cure="convert it to 8 bits with the scale that your data means",
        )
    grey = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # v / 257, rounded
    if isinstance(transparent, int):
        grey[array == transparent] = 255
    return _grey(grey)


def _broken(source: str, error: Exception) -> InputError:
    return InputError(
        f"{source} cannot be decoded ({type(error).__name__}: {error})",
        expected="a whole image file",
        cure="copy it again from where it came from, or open and save it with another program",
    )


def pillow() -> Any:
    """Import `PIL.Image`, or raise `BackendUnavailable` with the command that installs it."""
    try:
        import PIL.Image
    except ImportError as error:
        raise BackendUnavailable(
            "Pillow is not installed",
            expected="Pillow 10.1 or newer, which decodes and resizes images",
            cure="pip install Pillow",
        ) from error
    return PIL.Image
