"""What is decoded to which pixels, and what is refused."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from runtime.errors import BackendUnavailable, InputError
from runtime.media.geometry import load_image


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def pixels(*rows) -> np.ndarray:
    return np.array(rows, np.uint8)


RED, GREEN, WHITE = [255, 0, 0], [0, 255, 0], [255, 255, 255]
COLOURS = pixels([RED, GREEN, [0, 0, 255]], [[10, 20, 30], WHITE, [0, 0, 0]])  # (2, 3, 3)


@pytest.mark.parametrize("wrap", [str, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_path_bytes_and_pil_give_the_same_pixels(tmp_path, wrap):
    path = tmp_path / "colours.png"
    path.write_bytes(png(Image.fromarray(COLOURS)))
    assert np.array_equal(load_image(wrap(path)), COLOURS)


def test_grey_is_repeated():
    grey = pixels([0, 128, 255])
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(load_image(png(Image.fromarray(grey))), expected)
    assert np.array_equal(load_image(grey), expected)
    assert np.array_equal(load_image(grey[..., None]), expected)


def test_transparency_is_blended_with_white():
    rgba = pixels([[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51], [9, 9, 9, 100]])  # 51/255 = 20 %
    expected = pixels([RED, WHITE, [204, 204, 204], [159, 159, 159]])  # the last one: 158.53
    assert np.array_equal(load_image(png(Image.fromarray(rgba))), expected)
    assert np.array_equal(load_image(rgba), expected)


def test_grey_with_alpha_is_blended_with_white():
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 255), (0, 51)])
    assert np.array_equal(load_image(png(image)), pixels([[0, 0, 0], [204, 204, 204]]))


@pytest.mark.parametrize("transparent", [False, True])
def test_palette(transparent):
    image = Image.new("P", (2, 1))
    image.putpalette(RED + GREEN)
    image.putdata([0, 1])
    options = {"transparency": 1} if transparent else {}
    expected = pixels([RED, WHITE if transparent else GREEN])
    assert np.array_equal(load_image(png(image, **options)), expected)


def test_cmyk():
    image = Image.new("CMYK", (2, 1))
    image.putdata([(0, 0, 0, 0), (0, 255, 255, 0)])
    assert np.array_equal(load_image(image), pixels([WHITE, RED]))
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(buffer, format="JPEG")
    assert load_image(buffer.getvalue()).max() <= 2  # black


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled_not_cut(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(load_image(tmp_path / name), np.repeat(expected[..., None], 3, 2))


def test_transparent_16_bit_grey():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)  # 2 x 1 pixels, 16 bits, grey
    line = zlib.compress(b"\0" + struct.pack(">HH", 0, 40000))
    transparent = struct.pack(">H", 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", line), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)
    assert np.array_equal(load_image(file), pixels([WHITE, [156, 156, 156]]))


def test_16_bit_files_opened_as_32_bit_integers():
    assert load_image(Image.fromarray(np.array([[65535, 257]], np.int32)))[0, :, 0].tolist() == [255, 1]
    with pytest.raises(InputError, match="70000"):
        load_image(Image.fromarray(np.array([[70000]], np.int32)))


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
    stored = png(Image.fromarray(np.ascontiguousarray(turned)), exif=exif)
    assert np.array_equal(load_image(stored), COLOURS)
    with Image.open(io.BytesIO(stored)) as image:
        assert np.array_equal(load_image(image), COLOURS)
        assert image.size == turned.shape[1::-1], "the caller's PIL image must stay as it was"


def test_first_frame_of_a_gif():
    frames = [Image.new("P", (4, 3), i) for i in range(2)]
    for frame in frames:
        frame.putpalette(RED + GREEN)
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(load_image(buffer.getvalue()), np.tile(pixels([RED]), (3, 4, 1)))


def test_one_pixel_and_a_very_wide_image():
    assert np.array_equal(load_image(png(Image.new("RGB", (1, 1), (1, 2, 3)))), pixels([[1, 2, 3]]))
    assert load_image(png(Image.new("RGB", (20000, 10)))).shape == (10, 20000, 3)


def test_channel_order_is_for_arrays_only():
    blue_first = np.ascontiguousarray(COLOURS[..., ::-1])
    assert np.array_equal(load_image(blue_first, channel_order="bgr"), COLOURS)
    assert np.array_equal(load_image(png(Image.fromarray(COLOURS)), channel_order="bgr"), COLOURS)
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
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=kind)
    path = tmp_path / "half.img"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
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


def test_empty_and_float_pil_images_are_refused():
    check_refused(Image.new("RGB", (0, 5)), "no pixels")
    check_refused(Image.new("F", (2, 2)), "float32")


def test_wrong_channel_order_is_refused():
    check_refused(COLOURS, "'brg'", "'rgb' or 'bgr'", channel_order="brg")


def test_a_decompression_bomb_is_refused():
    limit = Image.MAX_IMAGE_PIXELS
    bomb = png(Image.new("1", (20000, 20000)))
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
