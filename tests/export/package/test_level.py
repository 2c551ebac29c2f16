"""The curve from level to what is kept, fitted at the build."""

from __future__ import annotations

import dataclasses
import re
import shutil
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from export.build_engine import main
from export.package import source as source_module
from export.package.level import FEWEST, LEVEL_PLOT, SHARES, curve, fit, level_plot
from export.package.source import Chosen, level_images
from runtime.package.folder import Package
from runtime.package.records import LevelCheck, LevelRecord
from train.checkpoint import MaskerFile
from train.run_folder import APART


def test_mask_keeps_the_embedding_and_moved_mask_not():
    """The embedding is the mean colour of a square; the mask is high there."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 1, 1, 3)) + random.integers(-20, 20, (24, 20, 20, 3))
    images = images.clip(0, 255).astype(np.uint8)
    mask = random.uniform(0, 0.2, (24, 20, 20)).astype(np.float32)
    mask[:, :10, :10] += 0.7

    def embed(image: np.ndarray) -> np.ndarray:
        return image[:10, :10].mean((0, 1), dtype=np.float32)

    embedding = np.stack([embed(image) for image in images])
    found = fit(embed, images, embedding, mask, mean=(0.5, 0.5, 0.5), source="squares")
    assert found.n == 24
    at = {check.asked: check for check in found.checks}
    assert at[0.95].area <= 0.25
    assert at[0.95].kept > 0.9 > at[0.95].moved
    assert at[0.5].kept <= at[0.95].kept
    for check in found.checks:
        assert check.low <= check.kept <= check.high


def test_a_curve_ascends_and_ends_with_the_whole():
    ups_and_downs = np.array([[0.1, 0.3, 0.2, 0.5, 1.02, 0.9, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 1.0]])
    share, kept = curve(ups_and_downs)
    assert (share[0], share[-1], kept[-1]) == (0, 1, 1)
    assert list(kept) == sorted(set(kept))
    assert set(share) <= {*SHARES, 1.0}


def test_the_picture_draws_the_checks():
    """Heights in it are the values, on the grid's own scale, which reaches below 0 where they do."""
    table = {
        "asked": [0.5, 0.7, 0.95],
        "kept": [0.6, 0.72, 0.9],
        "low": [0.1, 0.4, 0.8],
        "high": [0.9, 0.95, 1.0],
        "moved": [-0.3, 0.2, 0.5],
        "area": [0.2, 0.4, 0.9],
    }
    rows = zip(*table.values(), strict=True)
    checks = tuple(LevelCheck(**dict(zip(table, row, strict=True))) for row in rows)
    record = LevelRecord(images="", n=3, fills=(), share=(0.0, 1.0), kept=(0.0, 1.0), checks=checks)
    svg = ElementTree.fromstring(level_plot(record))

    def drawn(name: str) -> np.ndarray:
        (points,) = [e.get("points") for e in svg.iter() if e.get("class") == name and e.get("points")]
        return np.array([pair.split(",") for pair in points.split()], float)

    lines = {name: drawn(name) for name in ("asked", "kept", "moved")}
    lines["low"], backwards = np.split(drawn("range"), 2)
    lines["high"] = backwards[::-1]
    heights = [float(re.search(r" (.+)H", e.get("d"))[1]) for e in svg.iter() if e.get("class") == "grid"]
    assert len(heights) == 8, "from -0.4 to 1"
    for name, line in lines.items():
        values = np.interp(line[:, 1], heights[::-1], np.linspace(1, -0.4, 8))
        assert values == pytest.approx(table[name], abs=1e-3), name
        assert line[:, 0] == pytest.approx(np.interp(table["asked"], [0.5, 0.95], line[[0, -1], 0]), abs=0.1)


def test_the_build_fits_on_images_that_are_named(masker, tmp_path, capsys):
    random = np.random.default_rng(0)
    for i in range(FEWEST):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    shutil.copy(masker, tmp_path / "masker.safetensors")
    arguments = ["--masker", str(tmp_path / "masker.safetensors"), "--quiet", "--precision", "fp32"]
    out = tmp_path / "package" / "x.nemu"
    assert main([*arguments, "--out", str(out), "--evaluate", str(tmp_path)]) == 0
    assert "warning: what a level" not in capsys.readouterr().err
    manifest = Package.open(out).manifest
    level = manifest.level
    assert level.n == FEWEST
    assert LEVEL_PLOT in manifest.files
    assert (out / LEVEL_PLOT).read_text() == level_plot(level)
    card = (out / "README.md").read_text()
    assert f"]({LEVEL_PLOT})" in card
    rows = re.findall(r"^\| (0\.\d+) \| (\d\.\d{3}) \|", card, re.MULTILINE)
    assert [float(asked) for asked, _ in rows] == [check.asked for check in level.checks]
    assert [float(kept) for _, kept in rows] == pytest.approx([c.kept for c in level.checks], abs=1e-3)


def test_level_is_fitted_on_images_set_apart(masker, photographs, tmp_path, capsys, monkeypatch):
    """Those that can be read; the others are named."""
    monkeypatch.setattr(source_module, "FEWEST", 4)
    shutil.copy(masker, tmp_path / "masker.safetensors")
    data = tmp_path / "data"
    data.mkdir()
    for path in sorted(photographs.glob("*.png"))[:5]:
        shutil.copy(path, data)
    (data / "broken.png").write_text("no image")
    file = MaskerFile.open(tmp_path / "masker.safetensors")
    file = dataclasses.replace(file, config=dataclasses.replace(file.config, data=str(data)))
    monkeypatch.setattr(MaskerFile, "open", lambda _: file)
    names = [*sorted(path.name for path in data.iterdir()), "gone.png"]
    (tmp_path / APART).write_text("".join(f"{name}\n" for name in names))
    arguments = ["--masker", str(tmp_path / "masker.safetensors"), "--quiet", "--precision", "fp32"]
    assert main([*arguments, "--out", str(tmp_path / "x.nemu")]) == 0
    said = capsys.readouterr().err
    assert re.search(r"2 images cannot be read and are left out: \S*broken\.png, \S*gone\.png", said)
    level = Package.open(tmp_path / "x.nemu").manifest.level
    assert (level.n, level.images) == (5, "apart:5")
    monkeypatch.setattr(source_module, "FEWEST", 6)
    assert main([*arguments, "--out", str(tmp_path / "few.nemu")]) == 0
    assert Package.open(tmp_path / "few.nemu").manifest.level is None
    assert "what a level of the mask means is not measured" in capsys.readouterr().err


def test_level_falls_back_to_images_set_apart(package, photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(source_module, "FEWEST", 5)
    monkeypatch.setattr(source_module, "apart_of", lambda _: sorted(photographs.glob("*.png"))[:5])
    size = Package.open(package).manifest.input
    few, enough = (Chosen(np.zeros((n, 32, 32, 3), np.uint8), f"{n} of them") for n in (4, 5))
    elsewhere, evaluate = tmp_path / "elsewhere", tmp_path / "few"
    elsewhere.mkdir()
    evaluate.mkdir()
    for judged, trained_on, word in (
        (enough, tmp_path, "overlaps with the folder of the training"),
        (few, elsewhere, f"{evaluate} gave 4 images"),
    ):
        file = SimpleNamespace(config=SimpleNamespace(data=str(trained_on)))
        images, source = level_images(judged, size, evaluate=evaluate, masker=file)
        assert (len(images), source) == (5, "apart:5")
        assert word in capsys.readouterr().err
    assert level_images(enough, size, evaluate=evaluate, masker=file) is enough
    assert not capsys.readouterr().err


def test_without_such_images_the_card_says_so(package):
    assert Package.open(package).manifest.level is None
    assert not (package / LEVEL_PLOT).exists()
    assert LEVEL_PLOT not in (package / "README.md").read_text()
    assert "Not measured" in (package / "README.md").read_text()
