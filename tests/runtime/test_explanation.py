"""What an Explanation holds, draws and writes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import BackendError, InputError, OutputExists
from runtime.media.overlay import STYLES, TABLE, colour_bar, grid, heat, overlay

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)


def test_the_mask_lies_on_the_original_pixels(explanation):
    assert explanation.valid == (15, 0, 45, 30)
    assert explanation.mask.shape == (30, 60)
    assert explanation.mask.dtype == np.float32
    assert (explanation.mask[:12, 15:45] == 1).all()
    assert not explanation.mask[18:].any()
    assert not explanation.mask[:, :15].any()
    assert explanation.mask is explanation.mask, "upsampled once"


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("embedding", np.zeros(3), "float64"),
        ("embedding", np.zeros((1, 3), np.float32), "1 axes"),
        ("embedding", np.zeros(0, np.float32), r"\(0,\)"),
        ("embedding", np.array([1, np.nan], np.float32), "not finite"),
        ("graph_mask", np.full((10, 10), 1.01, np.float32), "1.01"),
        ("graph_mask", np.full((10, 10), -0.1, np.float32), "-0.1"),
        ("graph_mask", np.full((10, 10), np.inf, np.float32), "not finite"),
        ("graph_mask", np.zeros((9, 10), np.float32), r"\(9, 10\)"),
        ("graph_mask", np.zeros((1, 10, 10), np.float32), "2 axes"),
        ("image", IMAGE[1:], "an image uint8"),
    ],
)
def test_unusable_outputs_are_refused(explanation, field, value, word):
    with pytest.raises(InputError if field == "image" else BackendError, match=word):
        dataclasses.replace(explanation, **{field: value})


def test_a_mask_slightly_above_one_is_clipped(explanation):
    over = dataclasses.replace(explanation, graph_mask=np.full((10, 10), 1.0005, np.float32))
    assert over.mask.max() == 1


def test_it_is_frozen(explanation):
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.embedding = None


def test_save_writes_three_files_that_read_back(explanation, tmp_path):
    paths = explanation.save(tmp_path / "new" / "folder", "photo")
    assert {p.name for p in paths[0].parent.iterdir()} == {path.name for path in paths}
    assert np.array_equal(np.load(paths.mask, allow_pickle=False), explanation.mask)
    assert np.array_equal(np.asarray(Image.open(paths.overlay)), explanation.overlay())
    record = json.loads(paths.record.read_text())
    assert np.array_equal(np.array(record["embedding"], np.float32), explanation.embedding)
    assert record["valid"] == [15, 0, 45, 30]
    assert record["image_size"] == [30, 60]
    assert record["mask"] == {"mean": 0.5, "above_half": 0.5, "degenerate": ""}
    assert record["embedding_id"] == "tiny-fp32"
    assert record["timing"]["run"] == 2.5


@pytest.mark.parametrize("which", [0, 1, 2])
def test_save_never_overwrites_without_force(explanation, tmp_path, which):
    paths = explanation.save(tmp_path, "photo")
    for i, path in enumerate(paths):
        path.unlink() if i != which else path.write_text("mine")
    with pytest.raises(OutputExists, match="--force"):
        explanation.save(tmp_path, "photo")
    assert [p.name for p in tmp_path.iterdir()] == [paths[which].name]
    explanation.save(tmp_path, "photo", force=True)
    assert paths[which].read_bytes() != b"mine"


def test_a_failure_while_saving_leaves_nothing(explanation, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        explanation.save(tmp_path, "photo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "../a", "/a"])
def test_save_wants_a_plain_name(explanation, tmp_path, name):
    with pytest.raises(InputError, match="plain file name"):
        explanation.save(tmp_path, name)


def test_the_colour_tables_lightness_rises():
    luma = TABLE @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luma) > 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_overlay_scale_is_fixed_never_stretched(style):
    """A faint mask stays faint: the same value gives the same colour whatever the rest of the mask is."""
    image = np.full((2, 4, 3), (90, 100, 110), np.uint8)
    faint = np.full((2, 4), 0.1, np.float32)
    strong = np.array([[0.1, 0.3, 0.2, 1], [0, 0, 0, 0.5]], np.float32)
    assert np.array_equal(overlay(image, faint, style=style)[0, 0], overlay(image, strong, style=style)[0, 0])


@pytest.mark.parametrize("style", STYLES)
def test_an_empty_mask_draws_grey_and_dark_borders(explanation, style):
    plain = overlay(IMAGE, np.zeros((30, 60), np.float32), style=style)
    assert (plain == plain[..., :1]).all(), "no colour without a mask"
    luma = IMAGE @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(plain[..., 0].ravel(), luma.ravel())[0, 1] > 0.999
    drawn = explanation.overlay(style=style)
    assert drawn.shape == IMAGE.shape
    assert drawn.dtype == np.uint8
    assert (drawn[20:, :15] <= plain[20:, :15]).all()
    assert drawn[20:, :15].mean() < 0.6 * plain[20:, :15].mean()
    assert np.array_equal(drawn[20:, 20:40], plain[20:, 20:40])


@given(st.floats(0, 1))
def test_heat_is_the_table(value):
    assert np.abs(heat(np.array([[value]], np.float32))[0, 0] - TABLE[round(value * 255)]).max() <= 6


def test_full_heat_covers_most_of_the_image():
    image = np.full((1, 1, 3), 50, np.uint8)
    one = np.ones((1, 1), np.float32)
    assert overlay(image, one, style="heat") == pytest.approx(0.7 * heat(one) + 0.3 * 0.75 * image, abs=1)
    assert np.array_equal(colour_bar(64)[0, -1], heat(one)[0, 0])
    assert np.array_equal(colour_bar(64, 5)[:, 0], np.tile(heat(one * 0)[0, 0], (5, 1)))


@pytest.mark.parametrize(("size", "width"), [(100, 1), (500, 2)])
def test_an_outline_shows_which_black_pixels_are_marked(size, width):
    """Black is black in a spotlight and out of it: the line alone tells which is which."""
    mask = np.full((size, size), 0.49, np.float32)
    top, bottom, left, right = 20, 40, 30, 70
    mask[top:bottom, left:right] = 0.5
    mask[5, 5] = 1  # too small for a line
    drawn = overlay(np.zeros((size, size, 3), np.uint8), mask)
    line = (drawn == (0, 255, 255)).all(axis=-1)
    assert not drawn[~line].any()
    ring = np.zeros_like(line)
    ring[top - width : bottom + width, left - width : right + width] = True
    ring[top:bottom, left:right] = False
    assert not line[~ring].any()
    assert line[top - width : top, left + width : right - width].all()
    assert line[top + width : bottom - width, right : right + width].all()


@pytest.mark.parametrize("value", [0, 0.49, 0.5, 1])
def test_a_mask_of_one_value_has_no_outline(value):
    drawn = overlay(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), value, np.float32))
    assert not drawn.any()


def test_grid_places_images_on_white():
    red = np.full((2, 3, 3), (255, 0, 0), np.uint8)
    blue = np.full((4, 2, 3), (0, 0, 255), np.uint8)
    sheet = grid([[red, blue], [blue]], gap=1)
    assert sheet.shape == (4 + 1 + 4, 3 + 1 + 2, 3)
    assert np.array_equal(sheet[:2, :3], red)
    assert np.array_equal(sheet[:4, 4:], blue)
    assert np.array_equal(sheet[5:, :2], blue)
    assert (sheet[2:5, :4] == 255).all()
