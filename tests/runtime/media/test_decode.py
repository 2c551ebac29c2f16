"""What is decoded to which pixels, and what is refused."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from runtime.errors import BackendUnavailable, InputError
from runtime.media.geometry import load_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def row(mode: str, *values, palette=None) -> Image.Image:
    """A row of pixels."""
    image = Image.new(mode, (len(values), 1))
    if palette:
        image.putpalette(palette)
    image.putdata(values)
    return image


def pixels(*rows) -> np.ndarray:
    return np.array(rows, np.uint8)


RED, GREEN, WHITE, BLACK = [255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0]
COLOURS = pixels([RED, GREEN, [0, 0, 255]], [[10, 20, 30], WHITE, BLACK])  # (2, 3, 3)
GREY, GREY_RGB = pixels([0, 128, 255]), [[BLACK, [128] * 3, WHITE]]
RGBA = pixels([[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51], [9, 9, 9, 100]])  # 51/255 = 20 %
BLENDED = [[RED, WHITE, [204] * 3, [159] * 3]]  # the last one: 158.53
PALETTE, LATER = (row("P", *values, palette=RED + GREEN) for values in ((0, 1), (1, 0)))


@pytest.mark.parametrize("wrap", [str, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_path_bytes_and_pil_give_the_same_pixels(tmp_path, wrap):
    path = tmp_path / "colours.png"
    path.write_bytes(encoded(Image.fromarray(COLOURS)))
    assert np.array_equal(load_image(wrap(path)), COLOURS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(encoded(Image.fromarray(GREY)), GREY_RGB, id="grey"),
        pytest.param(GREY, GREY_RGB, id="grey array"),
        pytest.param(GREY[..., None], GREY_RGB, id="grey array with an axis"),
        pytest.param(encoded(Image.fromarray(RGBA)), BLENDED, id="transparent"),
        pytest.param(RGBA, BLENDED, id="transparent array"),
        pytest.param(encoded(row("LA", (0, 255), (0, 51))), [[BLACK, [204] * 3]], id="grey with alpha"),
        pytest.param(encoded(PALETTE), [[RED, GREEN]], id="palette"),
        pytest.param(encoded(PALETTE, transparency=1), [[RED, WHITE]], id="transparent palette"),
        pytest.param(row("CMYK", (0, 0, 0, 0), (0, 255, 255, 0)), [[WHITE, RED]], id="cmyk"),
        pytest.param(encoded(PALETTE, "GIF", save_all=True, append_images=[LATER]), [[RED, GREEN]], id="gif"),
        pytest.param(Image.fromarray(np.int32([[65535, 257]])), [[WHITE, [1, 1, 1]]], id="16 bits as 32"),
        pytest.param(
            encoded(Image.fromarray(np.uint16([[0, 40000]])), transparency=0),
            [[WHITE, [156] * 3]],
            id="transparent 16 bits",
        ),
        pytest.param(encoded(Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]], id="one pixel"),
    ],
)
def test_every_kind_becomes_rgb(given, expected):
    """Transparency is blended with white, and an animation gives its first frame."""
    assert np.array_equal(load_image(given), pixels(*expected))


def test_cmyk_jpeg_and_a_very_wide_image():
    assert load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")).max() <= 2  # black
    assert load_image(encoded(Image.new("RGB", (20000, 10)))).shape == (10, 20000, 3)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled_not_cut(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(load_image(tmp_path / name), np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    turned = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, 1),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS, -1),
    }[orientation]  # the pixels as such a camera stores them
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(np.ascontiguousarray(turned)), exif=exif)
    assert np.array_equal(load_image(stored), COLOURS)
    with Image.open(io.BytesIO(stored)) as image:
        assert np.array_equal(load_image(image), COLOURS)
        assert image.size == turned.shape[1::-1], "the caller's PIL image must stay as it was"


def test_channel_order_is_for_arrays_only():
    blue_first = np.ascontiguousarray(COLOURS[..., ::-1])
    assert np.array_equal(load_image(blue_first, channel_order="bgr"), COLOURS)
    assert np.array_equal(load_image(encoded(Image.fromarray(COLOURS)), channel_order="bgr"), COLOURS)
    bgra = np.concatenate([blue_first, np.full((2, 3, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(load_image(bgra, channel_order="bgr"), COLOURS)


def test_an_rgb_array_is_not_copied():
    assert load_image(COLOURS) is COLOURS
    strided = load_image(COLOURS[::-1, ::2])
    assert strided.flags.c_contiguous
    assert np.array_equal(strided, COLOURS[::-1, ::2])


def check_refused(image, *words, **options) -> None:
    with pytest.raises(InputError) as caught:
        load_image(image, **options)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.came
    assert caught.value.expected
    assert caught.value.cure


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "half.img"
    path.write_bytes(whole[: int(len(whole) * share)])
    check_refused(path, str(path))


def test_a_text_file_named_jpg_is_refused(tmp_path):
    path = tmp_path / "note.jpg"
    path.write_text("hello, I am no picture")
    check_refused(path, str(path), "not an image", "hello")
    check_refused(b"", "0 bytes")


def test_missing_files_and_folders_are_refused(tmp_path):
    check_refused(tmp_path / "none.jpg", "none.jpg does not exist")
    check_refused(str(tmp_path), "is a folder", "explain")


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 4, 3), np.float32), "* 255"),
        (np.zeros((4, 4), np.uint16), "/ 257"),
        (np.zeros((4, 4), bool), "* 255"),
        (np.zeros((4, 4, 3), np.int64), "astype(np.uint8)"),
        (np.zeros((3, 40, 50), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((5, 5, 2), np.uint8), "channels last"),
        (np.zeros((2, 4, 4, 3), np.uint8), "array[0]"),
        (np.zeros(4, np.uint8), "one image"),
    ],
)
def test_other_arrays_are_refused_with_the_cure(array, word):
    check_refused(array, str(array.dtype), str(array.shape), word)


@pytest.mark.parametrize("thing", [None, 3, [], object()])
def test_other_things_are_refused(thing):
    check_refused(thing, type(thing).__name__, "uint8 numpy array")


def test_pil_images_and_orders_are_refused():
    check_refused(Image.new("RGB", (0, 5)), "no pixels")
    check_refused(Image.new("F", (2, 2)), "float32")
    check_refused(Image.fromarray(np.int32([[70000]])), "70000")
    check_refused(COLOURS, "'brg'", "'rgb' or 'bgr'", channel_order="brg")


def test_a_decompression_bomb_is_refused():
    limit = Image.MAX_IMAGE_PIXELS
    bomb = encoded(Image.new("1", (20000, 20000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_refused(bomb, "decompression bomb", "MAX_IMAGE_PIXELS")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_without_pillow_only_arrays_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert load_image(COLOURS) is COLOURS
    with pytest.raises(BackendUnavailable, match="pip install Pillow"):
        load_image(b"any")
