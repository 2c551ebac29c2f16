"""Every method gives a score a picture and a map its size; the slow one finds what it is made to find."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.quality.defects.defect_methods import METHODS, latency, main
from benchmarks.quality.defects.scores import GOOD, Pictures
from runtime.media.encode import save_png
from runtime.package.folder import Package


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Grey noise; of four test pictures two have a red square."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 130, (12, 64, 64, 3), dtype=np.uint8)
    regions = np.zeros((4, 64, 64), bool)
    regions[2:, 8:32, 8:32] = True
    images[8:][regions] = (250, 0, 0)
    kinds = np.array([GOOD, GOOD, "blob", "blob"])
    return Pictures(name="toy", bank=images[:8], images=images[8:], kinds=kinds, regions=regions)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_scores_every_picture_and_pixel(package, pictures, name):
    scores, maps, told = METHODS[name](Package.open(package), pictures)
    assert (scores.shape, maps.shape) == ((4,), (4, 64, 64))
    assert np.isfinite(maps).all()
    if name == "bank":
        assert scores[2:].min() > scores[:2].max()
        assert set(told) == {"false_alarms", "found"}
    if name == "hidden":  # grey there makes it more like the grey normal picture
        assert maps[2:, 8:32, 8:32].mean() > maps[2:, 40:, 40:].mean()


def test_few_rounds_have_latency_but_no_ratio(package, pictures):
    rows = latency(Package.open(package), pictures, rounds=5)
    assert [row["variant"] for row in rows][:2] == ["encoder", "control"]
    assert all(row["ratio_to_encoder"] is None for row in rows)  # of five rounds there is none


def test_command_takes_over_rows_and_names_missing_ones(package, pictures, tmp_path, capsys):
    for i, (image, kind) in enumerate(zip(pictures.images, pictures.kinds, strict=True)):
        save_png(tmp_path / f"data/toy/test/{kind}/{i}.png", image)
        save_png(tmp_path / f"data/toy/truth/{kind}/{i}.png", pictures.regions[i].astype(np.uint8) * 255)
    for i, image in enumerate(pictures.bank):
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
