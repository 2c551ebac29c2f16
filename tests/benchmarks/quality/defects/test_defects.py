"""Planted defects are where they are said to be, scored as MVTec AD scores them, found by each method."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.quality.defects.__main__ import KINDS, LEAST_CHANGE, SIDE, Product, composed, defective, make
from benchmarks.quality.defects.defect_methods import METHODS, latency, main
from benchmarks.quality.defects.scores import GOOD, MOST_FALSE, ProductImages, pro, row
from runtime.media.encode import save_png
from runtime.package.folder import Package


@pytest.fixture(scope="module")
def two() -> list[Product]:
    """A red disc and a blue square, before grey."""
    made = []
    for name, colour in (("disc", (200, 30, 30)), ("square", (30, 30, 220))):
        drawn = Image.new("RGBA", (100, 100))
        pen = ImageDraw.Draw(drawn)
        (pen.ellipse if name == "disc" else pen.rectangle)((0, 0, 99, 99), fill=(*colour, 255))
        made.append(Product(name=name, object=drawn, ground=Image.new("RGB", (SIDE + 12,) * 2, "gray")))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_its_pixels_and_no_others(two, kind):
    rng = np.random.default_rng(0)
    ground, layer = two[0].normal(rng)
    other = two[1].normal(rng)[1]
    changed, where = KINDS[kind](layer, other, np.random.default_rng(1))
    apart = np.abs(composed(ground, changed) - composed(ground, layer)).max(2)
    assert where.any()
    assert apart[where].mean() > LEAST_CHANGE
    assert apart[~where].max() == 0
    assert (layer[..., 3][where] > 0.5).all()


def test_the_same_seed_makes_the_same_image(two):
    (one, where), (again, there) = (
        defective(two[0], "missing", two[1], np.random.default_rng(7)) for _ in "ab"
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(where, there)
    other, _ = defective(two[0], "missing", two[1], np.random.default_rng(8))
    assert (one != other).any()


def test_what_is_written_is_read_back(two, tmp_path, monkeypatch):
    for name, count in (("BANK", 3), ("GOOD", 2), ("EACH", 1)):
        monkeypatch.setattr(f"benchmarks.quality.defects.__main__.{name}", count)
    make(two[0], two[1], tmp_path / "disc", seed=0)
    tests = ProductImages.load(tmp_path / "disc")
    assert (len(tests.bank), len(tests.images)) == (3, 6)
    assert set(tests.kinds) == {GOOD, *KINDS}
    assert (tests.regions.any((1, 2)) == (tests.kinds != GOOD)).all()
    found = row(tests, tests.regions.sum((1, 2)), tests.regions.astype(np.float32))
    assert (found["image_auroc"], found["pixel_auroc"], found["pro"]) == (1, 1, 1)


def test_pro_weighs_regions_not_pixels():
    regions = np.zeros((1, 40, 40), bool)
    regions[0, :20, :20] = True
    regions[0, 30:32, 30:32] = True
    large_only, small_only = regions.copy(), regions.copy()
    large_only[0, 25:] = False
    small_only[0, :25] = False
    large, small = (pro(regions, found.astype(float)) for found in (large_only, small_only))
    assert large == pytest.approx(small)
    assert large == pytest.approx(0.5 + 0.5 * MOST_FALSE / 2, abs=0.01)  # the other one as the rest is


def test_pro_is_the_mean_overlap_over_thresholds():
    rng = np.random.default_rng(0)
    regions = rng.random((2, 12, 12)) > 0.9
    maps = rng.random((2, 12, 12)) + 0.5 * regions
    parts = [
        (i, labels == k)
        for i, region in enumerate(regions)
        for labels, count in [ndimage.label(region, np.ones((3, 3)))]
        for k in range(1, count + 1)
    ]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        overlap = np.mean([(maps[i] >= t)[part].mean() for i, part in parts])
        points.append((float((maps >= t)[~regions].mean()), float(overlap)))
    x, y = np.array(points).T
    grid = np.linspace(0, MOST_FALSE, 20001)
    assert pro(regions, maps) == pytest.approx(np.interp(grid, x, y).mean(), abs=2e-3)


@pytest.fixture(scope="module")
def product() -> ProductImages:
    """Grey noise; of four test images two have a red square."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 130, (12, 64, 64, 3), dtype=np.uint8)
    regions = np.zeros((4, 64, 64), bool)
    regions[2:, 8:32, 8:32] = True
    images[8:][regions] = (250, 0, 0)
    kinds = np.array([GOOD, GOOD, "blob", "blob"])
    return ProductImages(name="toy", bank=images[:8], images=images[8:], kinds=kinds, regions=regions)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_scores_every_image_and_pixel(package, product, name):
    scores, maps, told = METHODS[name](Package.open(package), product)
    assert (scores.shape, maps.shape) == ((4,), (4, 64, 64))
    assert np.isfinite(maps).all()
    if name == "bank":
        assert scores[2:].min() > scores[:2].max()
        assert set(told) == {"false_alarms", "found"}
    if name == "hidden":  # grey there makes it more like the grey normal image
        assert maps[2:, 8:32, 8:32].mean() > maps[2:, 40:, 40:].mean()


def test_few_rounds_have_latency_but_no_ratio(package, product):
    rows = latency(Package.open(package), product, rounds=5)
    assert [row["variant"] for row in rows][:2] == ["encoder", "control"]
    assert all(row["ratio_to_encoder"] is None for row in rows)  # of five rounds there is none


def test_command_takes_over_rows_and_names_missing_ones(package, product, tmp_path, capsys):
    for i, (image, kind) in enumerate(zip(product.images, product.kinds, strict=True)):
        save_png(tmp_path / f"data/toy/test/{kind}/{i}.png", image)
        save_png(tmp_path / f"data/toy/truth/{kind}/{i}.png", product.regions[i].astype(np.uint8) * 255)
    for i, image in enumerate(product.bank):
        save_png(tmp_path / f"data/toy/bank/{i}.png", image)
    peers, out = tmp_path / "peers.json", tmp_path / "out.json"
    row = {"encoder": "e", "method": "peer", "image_auroc": 1, "pixel_auroc": 0.5}
    rows = [{**row, "pro": pro} for pro in (0.25, 0.75)]
    peers.write_text(json.dumps({"meta": {"anomalib": "0"}, "rows": rows}))
    arguments = ["--methods", "bank", "--rounds", "5", "--peers", str(peers), "--json", str(out)]
    assert main([str(tmp_path / "data"), "--packages", str(package), *arguments]) == 0
    assert "| e | peer | 2 | 1.000 | 0.500 | 0.500 |" in capsys.readouterr().out
    assert [one["method"] for one in json.loads(out.read_text())["rows"]] == ["peer", "peer", "bank"]
    assert main([str(tmp_path / "data"), "--packages", str(tmp_path), *arguments]) == 1
    assert "manifest.json" in capsys.readouterr().err
