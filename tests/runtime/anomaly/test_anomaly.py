"""Images compared with normal ones, on a tiny package whose cells are mean colours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtime import Bank, Explainer, Package, fit_bank
from runtime.errors import InputError, OutputExists, PackageError
from runtime.media.encode import save_png
from tests.runtime.run import run


def part(seed: int, *, defect: bool = False) -> np.ndarray:
    """uint8 (48, 96, 3): grey noise, and if wanted a red square at rows 8 to 23, columns 60 to 75."""
    image = np.random.default_rng(seed).integers(100, 120, (48, 96, 3), dtype=np.uint8)
    if defect:
        image[8:24, 60:76] = (250, 20, 20)
    return image


@pytest.fixture
def with_cells(make_package, tmp_path) -> Package:
    return Package.open(make_package(tmp_path / "cells.nemu", cells=True))


@pytest.fixture
def bank(with_cells) -> Bank:
    return fit_bank(with_cells, [(f"n{i}", part(i)) for i in range(12)])[0]


@pytest.fixture
def folder(tmp_path):
    """Two images, one with a defect, and a file that is no picture."""
    parts = tmp_path / "parts"
    save_png(parts / "good.png", part(100))
    save_png(parts / "bad.png", part(101, defect=True))
    (parts / "broken.png").write_text("no picture")
    return parts


def test_a_defect_is_found_where_it_is(with_cells, bank):
    with Explainer(with_cells, backend="onnxruntime") as explainer:
        watch = explainer.against(bank, false_alarms=0)
        good, bad = watch(part(3)), watch(part(200, defect=True))
    assert (good.is_anomalous, bad.is_anomalous) == (False, True)
    assert bad.p_value == pytest.approx(1 / 13)
    assert (good.nearest, good.similarity) == ("n3", pytest.approx(1))
    assert bad.map.shape == (48, 96)
    inside = np.zeros((48, 96), bool)
    inside[8:24, 60:76] = True
    assert bad.map[inside].min() > 0.5
    assert bad.map[:, :40].max() < 0.5  # more than a cell away
    assert good.map.max() <= 0.5
    assert bad.overlay().shape == (48, 96, 3)
    assert set(bad.timing) == {"preprocess", "run", "search"}


def test_the_map_is_scaled_by_the_threshold_alone(with_cells, bank):
    explainer = Explainer(with_cells, backend="onnxruntime")
    strict, lax = (explainer.against(bank, false_alarms=share)(part(300)) for share in (0.5, 0.0))
    assert strict.score == lax.score
    ratio = lax.threshold / strict.threshold
    seen = lax.map > 0
    assert strict.map.max() < 1 < ratio
    np.testing.assert_allclose(strict.map[seen] / lax.map[seen], ratio, rtol=1e-3)


def test_channel_order_and_a_saved_bank(with_cells, bank, tmp_path):
    path = bank.save(tmp_path / "line.bank")
    image = part(9, defect=True)
    rgb = Explainer(with_cells, backend="onnxruntime").against(path)(image)
    bgr = Explainer(with_cells, backend="onnxruntime", channel_order="bgr").against(path)(image[..., ::-1])
    assert rgb.score == bgr.score
    assert json.loads(json.dumps(rgb.facts()))["anomalous"] is True


def test_banks_of_other_packages_are_refused(with_cells, bank, tiny):
    with pytest.raises(PackageError, match=r"model\.cells\.onnx: it was built by an older"):
        Explainer(tiny, backend="onnxruntime").against(bank)
    other = Bank(**{**vars(bank), "embedding_id": "other-fp32"})
    with pytest.raises(InputError, match="a bank of other-fp32"):
        Explainer(with_cells, backend="onnxruntime").against(other)


def test_unreadable_images_are_left_out_and_listed(with_cells, tmp_path):
    images = [(f"n{i}", part(i)) for i in range(8)]
    bank, skipped = fit_bank(with_cells, [*images, ("gone", tmp_path / "gone.png")])
    assert len(bank.names) == 8
    assert [one["image"] for one in skipped] == ["gone"]
    with pytest.raises(InputError, match="0 normal images"):
        fit_bank(with_cells, [])


def test_commands_from_normal_images_to_a_list(with_cells, folder, tmp_path, capsys):
    normal = tmp_path / "normal"
    for i in range(10):
        save_png(normal / f"{i}.png", part(i))
    bank, out = tmp_path / "line.bank", tmp_path / "found"
    assert run("bank", with_cells.path, normal, "--out", bank, "--quiet") == 0
    judge = ("anomalies", with_cells.path, bank, folder, "--out", out)
    assert run(*judge, "--false-alarms", "0") == 0
    said = capsys.readouterr()
    assert "1 of 2 anomalous, 1 skipped" in said.out
    assert "broken.png" in said.err
    lines = [json.loads(line) for line in (out / "anomalies.jsonl").read_text().splitlines()]
    assert {line["name"]: line["anomalous"] for line in lines} == {"bad": True, "good": False}
    assert sorted(p.name for p in out.iterdir()) == ["anomalies.jsonl", "bad.overlay.jpg"]
    assert run(*judge) == OutputExists.exit_code
    assert run(*judge, "--force", "--overlays", "none", "--json") == 0
    for name in ("good.png", "bad.png"):
        (folder / name).unlink()
    assert run(*judge, "--force") == 1
    assert "none of 1 images" in capsys.readouterr().err
