"""The model card: what it says of data and metrics is what the run noted, and what numpy finds again."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest

from export.build_engine import main
from export.package.card import model_card
from runtime.media.encode import save_png
from runtime.package.folder import Package
from runtime.package.records import LevelCheck, LevelRecord, Spread, TargetMeasures, TargetRecord


def row(card: str, label: str) -> list[str]:
    """The cells after the label of a table's row."""
    (found,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", card, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def both(values: np.ndarray) -> list[float]:
    return [float(np.mean(values)), float(np.std(values, ddof=1))]


@pytest.fixture(scope="module")
def card(package) -> str:
    return (package / "README.md").read_text()


@pytest.fixture(scope="module")
def alone(masker, photographs, tmp_path_factory):
    """A package of the masker without its run, judged on a folder of the user's."""
    where = tmp_path_factory.mktemp("alone")
    shutil.copy(masker, where / "masker.safetensors")
    arguments = ["--masker", str(where / "masker.safetensors"), "--out", str(where / "alone.nemu"), "--quiet"]
    assert main([*arguments, "--precision", "fp32", "--evaluate", str(photographs)]) == 0
    return where / "alone.nemu"


def test_data_is_what_the_run_noted(package, masker, card):
    noted = json.loads((masker.parent / "summary.json").read_text())
    assert dataclasses.asdict(Package.open(package).manifest.training) == noted
    assert row(card, "folder")[0].startswith("`photographs")
    read = f"{noted['images']}; files that could not be read: {noted['skipped']}; 1.33 passes"
    assert row(card, "images") == [read]
    assert row(card, "verdict") == [f"**{noted['fault']}**"], "4 steps are too few"
    assert row(card, "shown") == ["4 steps of 4 images; augmentation none"]
    assert row(card, "run") == [f"{noted['seconds']:.0f} s; processes: 1; seed 0"]
    assert f"torch {noted['versions']['torch']}" in row(card, "versions")[0]
    end = f"masked images {noted['distance']:.3f}, mask area {noted['area']:.3f}"
    assert end in row(card, "at its end")[0]


def test_metrics_are_what_numpy_finds_again(package, card):
    """From the stored images, by onnxruntime, with nothing of ours in between."""
    manifest = Package.open(package).manifest
    mean = np.array(manifest.input.mean) * 255
    session = onnxruntime.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])

    def run(images):
        return session.run(["embedding", "mask"], {"image": np.rint(images).astype(np.uint8)})

    with np.load(package / "reference.npz") as arrays:
        images = arrays["images"].astype(np.float64)
    embedding, mask = run(images)
    n, height, width = mask.shape
    moved = np.empty_like(mask)
    for i, (down, right) in enumerate(np.random.default_rng(0).integers([height, width], size=(n, 2))):
        moved[i, (np.arange(height) + down) % height] = mask[i][:, (np.arange(width) - right) % width]

    def fidelity(masks):
        kept = masks[..., None] * images + (1 - masks[..., None]) * mean
        return both((unit(embedding) * unit(run(kept)[0])).sum(1))

    found = manifest.metrics
    for spread, values in (
        (found.fidelity, fidelity(mask)),
        (found.fidelity_moved, fidelity(moved)),
        (found.fidelity_empty, fidelity(0 * mask)),
        (found.area, both(mask.mean(axis=(1, 2)))),
    ):
        assert [spread.mean, spread.std] == pytest.approx(values, abs=2e-4)
    means = {found.fidelity.mean, found.fidelity_moved.mean, found.fidelity_empty.mean}
    assert len(means) == 3, "masks were moved"
    assert found.n == n == 8
    assert found.degenerate == sum(m.mean() < 0.01 or m.mean() > 0.99 for m in mask)
    assert row(card, "mask area: share of the image that is kept") == [str(found.area), "8"]
    assert row(card, "the same, nothing kept") == [str(found.fidelity_empty), "8"]
    assert f"{found.degenerate} of 8 masks show nothing" in card
    assert "8 photographs that nemu comes with" in card
    assert "They are few" in card


def test_card_of_a_masker_without_its_run(alone):
    card = (alone / "README.md").read_text()
    assert Package.open(alone).manifest.training is None
    assert "is not known: the package was built\nfrom a masker without the summary of its run" in card
    assert row(card, "folder")[0].startswith("`photographs")
    assert "at its end" not in card


def test_evaluate_images_are_measured_and_not_shipped(alone, photographs):
    metrics = Package.open(alone).manifest.metrics
    assert metrics.n == 12
    assert metrics.images == f"evaluate:12:12:seen:{photographs.name}"
    card = (alone / "README.md").read_text()
    assert f"12 of the 12 images in the folder `{photographs.name}`; the folder overlaps with" in card
    with np.load(alone / "reference.npz") as arrays:
        assert len(arrays["images"]) == 8
    for file in ("manifest.json", "README.md"):
        assert str(photographs.parent) not in (alone / file).read_text()


@pytest.mark.parametrize(
    ("resize", "crop", "said", "cut"),
    [
        ("crop", 1.0, "the middle is cut out", True),
        ("squash", 1.0, "proportions are not kept", False),
        ("squash", 0.9, "proportions are not kept", True),
        ("letterbox", 1.0, "bordered with black", False),
    ],
)
def test_limits_name_the_size_and_the_rule(package, resize, crop, said, cut):
    manifest = Package.open(package).manifest
    record = dataclasses.replace(manifest.input, resize=resize, crop_pct=crop)
    card = model_card(dataclasses.replace(manifest, input=record), name="x.nemu")
    assert "64 x 64 pixels" in card
    assert said in card
    assert ("never reaches the encoder" in card) is cut


def test_card_depends_on_licence_resumption_and_images(package):
    manifest = Package.open(package).manifest
    assert "before you pass the package on" in model_card(manifest, name="x.nemu")
    other = dataclasses.replace(
        manifest,
        encoder=dataclasses.replace(manifest.encoder, license="apache-2.0"),
        training=dataclasses.replace(manifest.training, resumed_at=3, versions={}),
        metrics=dataclasses.replace(manifest.metrics, n=64, fidelity=Spread(mean=0.25, std=0.5)),
    )
    card = model_card(other, name="x.nemu")
    assert row(card, "encoder licence") == ["apache-2.0"]
    assert "since step 3, where it was resumed" in row(card, "run")[0]
    assert row(card, "versions") == ["not noted by that run"]
    assert "0.250 ± 0.500 | 64 |" in card
    assert "They are few" not in card
    assert "None were measured" in model_card(dataclasses.replace(manifest, metrics=None), name="x.nemu")


def test_unreadable_summary_stops_the_build(masker, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "x.nemu"
    shutil.copytree(masker.parent, run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "summary.json").write_text("{")
    assert main(["--masker", str(run / "masker.safetensors"), "--out", str(out), "--quiet"]) == 1
    assert "summary.json is not JSON" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("option", ["--evaluate", "--calibration", "--reference"])
def test_too_few_images_are_refused_first(masker, tmp_path, capsys, option):
    shutil.copy(masker, tmp_path / "masker.safetensors")
    save_png(tmp_path / "held/one.png", np.zeros((8, 8, 3), np.uint8))
    arguments = ["--masker", str(tmp_path / "masker.safetensors"), "--out", str(tmp_path / "x.nemu")]
    assert main([*arguments, option, str(tmp_path / "held")]) == 1
    printed = capsys.readouterr().err
    assert f"{option} {tmp_path / 'held'} holds 1 images" in printed
    assert "exporting" not in printed


def with_targets(manifest, difference):
    """The manifest of a masker whose masks toward targets were measured on 16 mixtures."""
    measured = TargetMeasures(
        shown=Spread(mean=0.71, std=0.1),
        around=Spread(mean=0.12, std=0.2),
        difference=difference,
        present=Spread(mean=0.2, std=0.04),
        absent=Spread(mean=0.03, std=0.05),
        nothing=0.625,
    )
    checks = (LevelCheck(asked=0.8, kept=0.79, low=0.5, high=0.95, moved=0.1, area=0.22),)
    level = LevelRecord(images="", n=16, fills=("black",), share=(0.0, 0.5), kept=(0.0, 1.0), checks=checks)
    record = TargetRecord(images="16 images of toys", n=16, measured=measured, level=level)
    return dataclasses.replace(manifest, target=record)


@pytest.fixture
def asking(package):
    """The manifest, as if the masker took targets."""
    manifest = Package.open(package).manifest
    config = {**manifest.masker.config, "toward": True}
    return dataclasses.replace(manifest, masker=dataclasses.replace(manifest.masker, config=config))


def test_card_has_the_measures_of_target_masks(asking):
    card = model_card(with_targets(asking, Spread(mean=0.59, std=0.2)), name="x.nemu")
    assert row(card, "share of the mask in the region, toward the image that it shows") == ["0.710 ± 0.100"]
    assert row(card, "the same, toward the image around it") == ["0.120 ± 0.200"]
    assert row(card, "the same, toward an image that is not there") == ["0.030 ± 0.050"]
    assert "Measured on 16 mixtures" in card
    assert "toward an image that is not there, 62% are empty" in card
    assert "do not follow" not in card
    assert row(card, "0.8") == ["0.790", "0.50 to 0.95", "0.100", "22%"]
    around_zero = with_targets(asking, Spread(mean=0.59, std=1.3))  # 0.59 ± 1.96 · 1.3 / 4 has 0 in it
    assert "do not follow a target" in model_card(around_zero, name="x.nemu")


def test_card_says_without_targets_or_without_measures(asking):
    unmeasured = dataclasses.replace(asking, target=None)
    assert "nemu assess x.nemu --images" in model_card(unmeasured, name="x.nemu")
    older = {key: value for key, value in asking.masker.config.items() if key != "toward"}
    for config in (older, {**older, "toward": False}):
        masker = dataclasses.replace(asking.masker, config=config)
        card = model_card(dataclasses.replace(asking, masker=masker), name="x.nemu")
        assert "this masker takes no target" in card
        assert "toward=other" not in card
