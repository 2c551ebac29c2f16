"""Resizing to the graph's grid, and restoring masks from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import InputError
from runtime.media.encode import save_png
from runtime.media.geometry import Geometry, Placement, _resample
from runtime.media.sources import find_images

side = st.integers(1, 90)
grid_side = st.integers(4, 48)
rule = st.sampled_from(["crop", "squash", "letterbox"])


def geometry(height: int, width: int, resize: str, crop_pct: float = 1.0, interpolation: str = "bilinear"):
    pct = 1.0 if resize == "letterbox" else crop_pct
    return Geometry(height=height, width=width, resize=resize, crop_pct=pct, interpolation=interpolation)


def columns_first(image: np.ndarray, box_free: Geometry) -> np.ndarray:
    """timm's crop as its words say it: scale the whole image, then cut; columns before rows."""
    place = box_free.place(*image.shape[:2])
    left, top, right, bottom = place.box
    height, width = image.shape[:2]
    scaled_w = round(box_free.width * width / (right - left))
    scaled_h = round(box_free.height * height / (bottom - top))
    method = Image.Resampling[box_free.interpolation.upper()]
    whole = Image.fromarray(image).resize((scaled_w, height), method).resize((scaled_w, scaled_h), method)
    top, left = round((scaled_h - box_free.height) / 2), round((scaled_w - box_free.width) / 2)
    return np.asarray(whole)[top : top + box_free.height, left : left + box_free.width]


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    import skimage.data

    return [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "rocket", "coffee")]


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (224, 160), (37, 53)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize(
    ("resize", "interpolation"), [("crop", "bilinear"), ("crop", "bicubic"), ("squash", "bilinear")]
)
def test_geometry_is_timms_evaluation_transform(photographs, size, crop_pct, resize, interpolation):
    mode = "squash" if resize == "squash" else "center"
    options = {"crop_pct": crop_pct, "crop_mode": mode, "interpolation": interpolation}
    factory = pytest.importorskip("timm.data").create_transform
    transform = factory((3, *size), is_training=False, normalize=False, **options)
    ours = geometry(*size, resize, crop_pct, interpolation)
    cuts = ((0, np.s_[:97, :401]), (1, np.s_[:, 10:60]), (2, np.s_[:1, :7]), (3, np.s_[:31, :31]))
    odd = [photographs[i][cut] for i, cut in cuts if resize == "crop"]
    for image in photographs + odd:  # a shift by half a pixel would differ by tens
        theirs = np.asarray(transform(Image.fromarray(image))).transpose(1, 2, 0).astype(int)
        difference = np.abs(ours.fit(image)[0] - theirs)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.15  # Pillow 13 scales some shapes rows first
        assert (difference > 1).mean() < 0.003


@settings(max_examples=60, deadline=None)
@given(
    side,
    side,
    grid_side,
    grid_side,
    st.sampled_from([0.875, 0.9, 1.0]),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_a_box_gives_the_crop_of_the_whole(height, width, rows, columns, crop_pct, interpolation):
    """Also on noise, where any shift would show."""
    image = np.random.default_rng(height * 91 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = geometry(rows, columns, "crop", crop_pct, interpolation)
    assert np.abs(ours.fit(image)[0].astype(int) - columns_first(image, ours)).max() <= 2


@settings(max_examples=150, deadline=None)
@given(st.data(), side, side, grid_side, grid_side, rule, st.sampled_from([0.875, 1.0]))
def test_a_blob_is_restored_to_its_place(data, height, width, rows, columns, resize, crop_pct):
    ours = geometry(rows, columns, resize, crop_pct)
    place = ours.place(height, width)
    left, top, right, bottom = place.valid
    # as large as two cells of the grid, so that the grid can hold it
    part = (place.content[2] - place.content[0], place.content[3] - place.content[1])
    blob_w = min(right - left, int(2 * (right - left) / part[0]) + 1)
    blob_h = min(bottom - top, int(2 * (bottom - top) / part[1]) + 1)
    x = data.draw(st.integers(left, right - blob_w))
    y = data.draw(st.integers(top, bottom - blob_h))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + blob_h, x : x + blob_w] = 255

    fitted, placement = ours.fit(image)
    assert placement == place
    mask = placement.restore(fitted[..., 0].astype(np.float32) / 255)

    assert mask.shape == (height, width)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    marked = np.argwhere(mask >= mask.max() - 1e-6).mean(0) if mask.max() > 0 else None
    assert marked is not None
    cell = ((bottom - top) / part[1], (right - left) / part[0])
    for axis, (start, length) in enumerate(((y, blob_h), (x, blob_w))):
        slack = 1 + cell[axis]
        assert start - slack <= marked[axis] <= start + length - 1 + slack


@settings(max_examples=80, deadline=None)
@given(side, side, grid_side, grid_side, rule, st.sampled_from([0.875, 1.0]))
def test_a_full_mask_fills_exactly_the_valid_box(height, width, rows, columns, resize, crop_pct):
    place = geometry(rows, columns, resize, crop_pct).place(height, width)
    left, top, right, bottom = place.valid
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    mask = place.restore(np.ones((rows, columns), np.float32))
    inside = np.zeros((height, width), bool)
    inside[top:bottom, left:right] = True
    assert np.allclose(mask[inside], 1, atol=1e-6)
    assert not mask[~inside].any()


@settings(max_examples=60, deadline=None)
@given(side, side, grid_side, grid_side, rule)
def test_a_ramp_is_restored_without_a_shift(height, width, rows, columns, resize):
    """No shift by half a pixel: the mask value at a pixel is that of its own position on the grid."""
    place = geometry(rows, columns, resize).place(height, width)
    left, top, right, bottom = place.content
    mask = np.zeros((rows, columns), np.float32)
    across = (np.arange(right - left) + 0.5) / (right - left)
    mask[top:bottom, left:right] = across
    restored = place.restore(mask)
    x0, y0, x1, _ = place.valid
    position = (np.arange(x0, x1) + 0.5 - place.box[0]) / (place.box[2] - place.box[0])
    inner = (position > 1.5 / (right - left)) & (position < 1 - 1.5 / (right - left))
    if x1 - x0 < right - left:  # the image is smaller: at its edges the average is one-sided
        inner[[0, -1]] = False
    assert np.allclose(restored[y0, x0:x1][inner], position[inner], atol=0.02)


def test_an_image_of_the_graphs_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    mask = np.random.default_rng(0).random((24, 32), np.float32)
    for resize in ("crop", "squash", "letterbox"):
        fitted, placement = geometry(24, 32, resize).fit(image)
        assert fitted is image
        assert placement.valid == (0, 0, 32, 24)
        assert np.array_equal(placement.restore(mask), mask)


def test_a_cut_without_scaling_is_a_view():
    image = np.random.default_rng(0).integers(0, 256, (235, 235, 3), dtype=np.uint8)
    rule = Geometry(height=224, width=224, resize="crop", crop_pct=0.95, interpolation="bicubic")
    fitted, placement = rule.fit(image)
    left, top, right, bottom = placement.valid
    assert np.shares_memory(fitted, image)
    assert np.array_equal(fitted, image[top:bottom, left:right])
    assert np.array_equal(fitted, _resample(image, (224, 224), placement.box, "bicubic"))


def test_letterbox_pads_with_black_and_keeps_the_ratio():
    image = np.full((10, 40, 3), 200, np.uint8)
    fitted, placement = geometry(20, 20, "letterbox").fit(image)
    assert placement.content == (0, 7, 20, 12)
    assert placement.valid == (0, 0, 40, 10)
    assert (fitted[7:12] == 200).all()
    assert not fitted[:7].any()
    assert not fitted[12:].any()


def test_extreme_shapes_cost_little():
    image = np.zeros((10, 20000, 3), np.uint8)
    image[:, 9990:10010] = 255
    fitted, placement = geometry(224, 224, "crop", 0.875).fit(image)
    assert fitted.min() == 255
    assert placement.valid == (9995, 0, 10005, 10)
    for shape in ((10, 20000), (20000, 10), (1, 1)):
        for resize in ("crop", "squash", "letterbox"):
            fitted, placement = geometry(224, 224, resize, 0.875).fit(np.zeros((*shape, 3), np.uint8))
            assert fitted.shape == (224, 224, 3)
            assert placement.restore(np.ones((224, 224), np.float32)).shape == shape


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"resize": "stretch"}, "squash"),
        ({"interpolation": "nearest"}, "bicubic"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_pct": 1.1}, "crop_pct"),
        ({"resize": "letterbox", "crop_pct": 0.9}, "crop_pct=1.0"),
        ({"height": 0}, "0x32"),
    ],
)
def test_invalid_settings_are_refused(wrong, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(geometry(24, 32, "crop"), **wrong)


def test_a_mask_of_another_size_is_refused():
    placement = Placement(size=(4, 4), grid=(2, 2), box=(0, 0, 4, 4), content=(0, 0, 2, 2))
    with pytest.raises(InputError, match=r"\(3, 2\)"):
        placement.restore(np.zeros((3, 2), np.float32))


def test_find_images(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", "note.txt", ".hidden.png", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == [
        "a.png",
        "b.JPG",
        "sub/c.webp",
    ]
    assert find_images(tmp_path / "note.txt") == [tmp_path / "note.txt"], "a file that is named is meant"
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        find_images(tmp_path / "empty")


def test_save_png_round_trip_and_nothing_left_behind(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    with pytest.raises(TypeError):
        save_png(tmp_path / "b.png", np.zeros((2, 2, 3), np.complex64))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
