"""Levels of a mask: regions, ties, the curve, and errors without a curve."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.__main__ import main
from runtime.bulk.images import Form, explain_images
from runtime.cli.report import write_report
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.level import level_for, share_above, share_for
from runtime.media.encode import encode_jpeg, save_png
from runtime.media.geometry import load_image
from runtime.media.overlay import overlay
from runtime.media.sources import find_named_images
from runtime.package.folder import MANIFEST, Package
from runtime.package.manifest import Manifest
from runtime.package.records import LevelCheck, LevelRecord

CURVE = LevelRecord(
    images="some",
    n=30,
    fills=("mean colour",),
    share=(0.0, 0.5, 1.0),
    kept=(0.2, 0.8, 1.0),
    checks=(LevelCheck(asked=0.8, kept=0.79, low=0.6, high=0.9, moved=0.4, area=0.3),),
)
IMAGE = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)


@pytest.fixture
def falling(explanation):
    """An explanation whose mask falls from the top row to the last, with a curve."""
    mask = np.repeat(np.linspace(0.95, 0.05, 10, dtype=np.float32)[:, None], 10, axis=1)
    return dataclasses.replace(explanation, graph_mask=mask, curve=CURVE)


@pytest.fixture
def photo(tmp_path):
    """IMAGE as a file."""
    return save_png(tmp_path / "photo.png", IMAGE)


@pytest.fixture
def with_curve(package_path, rewrite):
    """The tiny package with a curve in its manifest."""
    rewrite(package_path, level=CURVE)
    return package_path


def test_the_share_is_a_geometric_mean():
    mask = np.array([[0.6, 0.2], [0.1, 0.1]], np.float32)
    assert share_above(mask, 0.6) == pytest.approx(math.sqrt(1 / 4 * 0.6))
    assert share_above(mask, 0.2) == pytest.approx(math.sqrt(2 / 4 * 0.8))
    assert (share_above(mask, 0), share_above(mask, 0.7)) == (1, 0)
    assert share_above(np.zeros((2, 2), np.float32), 0) == 1


@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_level_for_gives_the_smallest_region(seed, share):
    mask = np.random.default_rng(seed).integers(0, 9, (6, 7)).astype(np.float32) / 8  # ties
    level = level_for(mask, share)
    assert share_above(mask, level) >= share - 1e-9
    higher = mask[mask > level]
    assert not higher.size or share_above(mask, higher.min()) < share + 1e-9


def test_a_region_is_where_the_curve_says(falling):
    region = falling.region(keep=0.8)
    assert (region.dtype, region.shape) == (np.bool_, (30, 60))
    assert not region[:, :15].any(), "what the encoder did not see keeps nothing"
    rows = region[:, 15:45].mean(axis=1)
    above = level_for(falling.graph_mask, 0.5)
    assert rows.sum() == pytest.approx(3 * (falling.graph_mask[:, 0] >= above).sum(), abs=1)
    assert falling.kept_at(above) == pytest.approx(0.8, abs=0.06)
    assert falling.kept_at(above) >= 0.8
    assert falling.region(keep=1)[:, 15:45].all()
    assert not falling.region(keep=0.1).any(), "an image of the fill alone keeps more"


def test_larger_regions_keep_more(falling):
    regions = [falling.region(keep=keep) for keep in (0.3, 0.5, 0.7, 0.9)]
    assert all((a <= b).all() and a.sum() < b.sum() for a, b in itertools.pairwise(regions))
    levels = [falling.kept_at(level) for level in (1, 0.7, 0.5, 0.3, 0)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0.2, 1)


@pytest.mark.parametrize("keep", [0, -0.1, 1.1, math.nan])
def test_keep_out_of_range_is_refused(falling, keep):
    with pytest.raises(InputError, match="keep="):
        falling.region(keep=keep)
    with pytest.raises(InputError, match="keep="):
        share_for(CURVE, keep)


def test_regions_need_a_curve(package_path):
    with Explainer(package_path) as explainer:
        found = explainer(IMAGE)
    for ask in (found.region, lambda: found.kept_at(0.5), lambda: found.overlay(keep=0.9)):
        with pytest.raises(InputError, match="does not say what a level"):
            ask()


@pytest.mark.parametrize("command", ["explain", "compare", "report"])
def test_commands_refuse_keep_out_of_range(package_path, rewrite, photo, tmp_path, capsys, command):
    out = tmp_path / "out"
    words = [command, str(package_path), *[str(photo)] * (1 + (command == "compare")), "--out", str(out)]
    assert main([*words, "--keep", "0.9"]) == 1
    assert "--evaluate" in capsys.readouterr().err
    rewrite(package_path, level=CURVE)
    assert main([*words, "--keep", "1.5"]) == 1
    assert "keep=1.5" in capsys.readouterr().err
    assert not out.exists()


def test_the_packages_curve_reaches_the_explanation(with_curve):
    assert Manifest.from_json((with_curve / MANIFEST).read_text(), source="test").level == CURVE
    with Explainer(with_curve) as explainer:
        assert explainer(IMAGE).curve == CURVE


def test_the_region_keeps_its_colours(falling):
    drawn, region = falling.overlay(keep=0.8), falling.region(keep=0.8)
    assert 0 < region.mean() < 1
    assert (drawn[region] == IMAGE[region]).all()
    line = (drawn == (0, 255, 255)).all(axis=-1)
    assert line.any()
    assert (drawn[~region & ~line].max(axis=-1) <= 0.31 * 255).all()


DRAWN = [
    ([], {"style": "spotlight"}, "spotlight: what matters has its own colours"),
    (["--keep", "0.8"], {"style": "spotlight", "keep": 0.8}, "spotlight of the region that keeps 0.8"),
    (["--style", "heat"], {"style": "heat"}, '"overlays": "heat"'),
]


@pytest.mark.parametrize(("words", "options", "said"), DRAWN)
def test_every_command_draws_the_same(with_curve, photo, tmp_path, words, options, said):
    page, image = tmp_path / "page.html", str(photo)
    draw = ["--overlays", "png", "--quiet", *words]
    assert main(["explain", str(with_curve), image, "--out", str(tmp_path / "out"), *draw]) == 0
    assert main(["compare", str(with_curve), image, image, "--out", str(tmp_path), *words]) == 0
    assert main(["report", str(with_curve), image, "--out", str(page), *words]) == 0
    with Explainer(with_curve) as explainer:
        expected = explainer(IMAGE).overlay(**options)
    assert (load_image(tmp_path / "out" / "photo.overlay.png") == expected).all()
    drawn = load_image(tmp_path / "photo-photo.compare.png")
    assert (drawn[:, :60] == expected).all()
    assert (drawn[:, -60:] == expected).all()
    text = page.read_text()
    assert base64.b64encode(encode_jpeg(expected)).decode() in text
    assert said in text
    assert ('<span class="bar" hidden>' in text) == ("heat" not in words), "a scale of colours not drawn"


def test_every_function_draws_the_spotlight_unless_told(with_curve, tmp_path):
    with Explainer(with_curve) as explainer:
        found, pair = explainer(IMAGE), explainer.compare(IMAGE, IMAGE)
        images = find_named_images([save_png(tmp_path / "a.png", IMAGE)])
        form = Form(overlays="png")
        explain_images(explainer, images, tmp_path / "out", form, package=Package.open(with_curve))
        write_report(tmp_path / "out", tmp_path / "p", explainer)
    expected = found.overlay(style="spotlight")
    assert (found.overlay() == expected).all()
    assert (overlay(found.image, found.mask, valid=found.valid) == expected).all()
    assert (load_image(found.save(tmp_path, "one").overlay) == expected).all()
    both = pair.overlay()
    assert (both == pair.overlay(style="spotlight")).all()
    assert (both[:, :60] == expected).all()
    assert (load_image(pair.save(tmp_path, "two").image) == both).all()
    assert base64.b64encode(encode_jpeg(expected)).decode() in (tmp_path / "p").read_text()


def test_heat_colours_only_the_region(falling):
    region, plain = falling.region(keep=0.8), falling.overlay(style="heat")
    drawn = falling.overlay(keep=0.8, style="heat")
    assert (drawn[region] == plain[region]).all()
    grey = np.ptp(drawn[~region].astype(int), axis=-1)
    assert grey.max() <= 1


def test_other_levels_and_styles_are_refused(falling):
    with pytest.raises(InputError, match=r"level=1\.5"):
        falling.kept_at(1.5)
    with pytest.raises(InputError, match="spotlight or heat"):
        falling.overlay(style="rainbow")
