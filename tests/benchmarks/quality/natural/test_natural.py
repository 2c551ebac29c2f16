"""The benchmark on real encoders, on a toy: what a perfect map gets, what is kept, and what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.quality.natural import __main__ as natural
from benchmarks.quality.natural import jobs as natural_jobs
from benchmarks.quality.natural import natural_masker
from benchmarks.quality.natural.licences import licence
from benchmarks.quality.natural.natural_tables import differences, evidence, masks, methods, paired, parts
from benchmarks.quality.natural.subject import CHANGES, RANDOM, Source, encoder_of, randomise, subject_of
from demo.photographs import paste
from runtime.errors import InputError
from tests.benchmarks.quality.test_quality import KEYS

SIZE, IMAGES = 64, 3


def write_composites(folder: Path, names: list[str], *, training: int) -> Path:
    """Noise, and a bright square on it that is the object; its swaps are dark, absent, on other noise."""
    rng = np.random.default_rng(0)

    def noise() -> np.ndarray:
        return rng.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)

    def save(picture: np.ndarray, *parts: str) -> None:
        folder.joinpath(*parts[:-1]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder.joinpath(*parts))

    for i in range(training):
        save(noise(), "train", f"p{i}.png")
    for i, name in enumerate(names):
        mask = np.zeros((SIZE, SIZE), bool)
        mask[8 : 24 + 4 * i, 8:24] = True
        ground, other, value = noise(), noise(), mask[..., None]
        save(np.where(value, np.uint8(250), ground), "test", f"{name}.png")
        save(mask.astype(np.uint8) * 255, "test_masks", f"{name}.png")
        swaps = {"bg": np.where(value, np.uint8(250), other), "obj": np.where(value, np.uint8(0), ground)}
        for change, picture in {**swaps, "none": ground}.items():
            save(picture, "test_swaps", f"{name}__{change}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_composites(tmp_path_factory.mktemp("natural"), list("012"), training=8)


@pytest.fixture
def run(data, weights, tmp_path, monkeypatch):
    """`run("train", methods=…)` → what was written."""

    def call(
        *parts: str, methods: tuple[str, ...] = ("lafam",), seeds: tuple[int, ...] = (0,), code: int = 0
    ):
        out = tmp_path / "natural.json"
        command = [
            *("natural", "--data", data, "--work", tmp_path / "work", "--json", out, "--device", "cpu"),
            *("--encoder-weights", f"test_resnet={weights}", "--size", SIZE, "--images", IMAGES),
            *("--steps", 2, "--batch-size", 4, "--parts", *parts, "--methods", *methods, "--seeds", *seeds),
        ]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        assert natural.main() == code
        return json.loads(out.read_text())

    return call


def test_a_package_that_is_not_there_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    result = run("baselines", methods=("saliency", "lafam"), code=1)
    assert [row["method"] for row in result["rows"]] == ["lafam"]
    assert "test_resnet saliency (row): captum is not installed" in capsys.readouterr().err
    assert result["missing"] == ["test_resnet saliency (row): captum is not installed"]


def test_values_average_to_the_figures_and_are_reused(run, monkeypatch):
    first = run("train", "score", "baselines", methods=("lafam", "optimised"), seeds=(0, 1))
    who = [(row["method"], row["seed"]) for row in first["rows"]]
    ours = [(method, seed) for method in ("nemu", "nemu_order") for seed in (0, 1)]
    assert who == [*ours, ("lafam", 0), ("optimised", 0)]
    for row in first["rows"]:
        assert row.keys() >= KEYS
        for name, of in row["values"].items():
            known = [v for v in of if v is not None]
            assert len(of) == IMAGES
            assert row[name] == pytest.approx(np.mean(known), abs=1e-4), name
    ours, _, order, _, lafam, _ = first["rows"]
    assert ours["train_steps"] == 2
    assert order["relevance_rank"] == pytest.approx(ours["relevance_rank"], abs=1e-3), "the same order"
    assert order["relevance_mass"] is lafam["mask_inside"] is None
    monkeypatch.setattr(natural_jobs, "measured", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr("benchmarks.quality.maskers.train", lambda *_: pytest.fail("trained again"))
    assert run("train", "score", methods=("lafam",), seeds=(0, 1))["rows"] == first["rows"][:-1]


def test_single_masker_is_scored_as_in_the_benchmark(run, data, tmp_path, monkeypatch):
    (row, _) = run("train", "score")["rows"]
    (folder,) = (tmp_path / "work/runs").iterdir()
    out = tmp_path / "one.json"
    command = ["x", "--masker", folder / "masker.safetensors", "--data", data, "--images", IMAGES]
    command += ["--json", out]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert natural_masker.main() == 0
    (alone,) = json.loads(out.read_text())["rows"]
    assert alone["values"] == row["values"]
    assert (alone["encoder"], alone["train_steps"], alone["batch_size"]) == ("test_resnet", 2, 4)


def test_object_as_map_has_the_best_figures(run, monkeypatch):
    def truth(source, work, name, method, *, images, **_):
        seen = subject_of(source, name, images)
        place = {x.numpy().tobytes(): region for x, region in zip(seen.x, seen.regions, strict=True)}

        def explain(encoder, x):
            return torch.from_numpy(np.stack([place[one.numpy().tobytes()] for one in x])).float()

        return explain, {}

    monkeypatch.setattr(natural_jobs, "explainer", truth)
    row = run("score")["rows"][0]
    assert row["relevance_rank"] == row["relevance_mass"] == row["mask_inside"] == row["pointing_game"] == 1
    assert row["mask_outside"] == row["mask_grey"] == 0
    assert row["mask_area"] == pytest.approx(row["region_area"])
    assert row["cosine_kept"] != row["cosine_kept_moved"]


def test_controls_and_tables(run):
    result = run("train", "score", "baselines", "controls", "evidence", methods=("lafam", "random"))
    assert {row["encoder"] for row in result["rows"]} == {"test_resnet", f"test_resnet{RANDOM}"}
    rows = {row["method"]: row for row in result["rows"] if row["encoder"] == "test_resnet"}
    assert rows["random"]["mprt_abs_rho"] == pytest.approx(1), "it never looks at the encoder"
    assert rows["lafam"]["mprt_abs_rho"] < 0.99
    assert rows["lafam"]["sensitivity"] > 0
    moves = result["encoders"]["test_resnet"]["moves"]
    assert moves.keys() == CHANGES.keys()
    assert min(moves.values()) > 0
    assert "LaFAM" in methods(result, "test_resnet")
    assert differences(result, "test_resnet").count("±") >= 8
    assert masks(result).count("nemu (our objective)") == 2
    assert "test_resnet" in evidence(result)
    text = parts(result, result, {**result, "rows": [{**result["rows"][0], "batch_size": 4}]})["methods"]
    assert "## Methods on test_resnet\n" in text
    assert f"## Methods on test_resnet{RANDOM}" not in text, "only ours was run there"


def test_differences_are_of_the_same_images():
    def row(method, seed, values):
        return {"encoder": "e", "method": method, "seed": seed, "values": {"relevance_rank": values}}

    ours = [row("nemu", 0, [0.5, 0.9, None, 0.7]), row("nemu", 1, [0.7, 0.9, 0.2, 0.7])]
    (one,) = paired([*ours, row("relax", 0, [0.4, 0.6, 0.3])])
    assert (one["against"], one["images"]) == ("relax", 2), "the third is undefined, RELAX has no fourth"
    assert one["difference"] == pytest.approx(np.mean([0.2, 0.3]))
    assert one["error"] == pytest.approx(np.hypot(0.05, 0.05))  # of images; of seeds, 0.2 and 0.3


def test_randomised_encoder_still_tells_images_apart(data, weights, tmp_path):
    source = Source(data=data, weights=(("test_resnet", weights),), device="cpu", size=SIZE)
    path = tmp_path / "random.safetensors"
    randomise(source, "test_resnet", path)
    both = Source(
        data=data, weights=(("test_resnet", weights), (f"test_resnet{RANDOM}", path)), device="cpu", size=SIZE
    )
    x = subject_of(source, "test_resnet", IMAGES).x
    learned, random = (encoder_of(both, name)(x)[0] for name in ("test_resnet", f"test_resnet{RANDOM}"))
    assert not torch.allclose(learned, random)
    assert random.std(0).mean() > 1e-3


def test_an_object_is_where_its_mask_says(tmp_path):
    file = tmp_path / "cut.png"
    Image.new("RGBA", (30, 40), (255, 0, 0, 255)).save(file)
    ground = Image.new("RGB", (256, 256), (0, 0, 255))
    image, alpha = paste(ground, Image.open(file), np.random.default_rng(0))
    red, mask = np.asarray(image)[..., 0] > 127, np.asarray(alpha) > 127
    assert (red == mask).all()
    assert 0.05 < mask.mean() < 0.6


def test_last_paragraph_naming_a_file_gives_its_licence(tmp_path):
    source = tmp_path / "usr/share/doc/pictures/copyright"
    source.parent.mkdir(parents=True)
    source.write_text(
        "Format: 1.0\n\nFiles: *\nLicense: GPL-2\n\nFiles: moon.jpg\n       old/hill.jpg\nLicense: CC0\n"
    )
    where = {"package": "pictures", "debs": tmp_path}
    assert licence(Path("backgrounds/hill.jpg"), **where)[0] == "CC0"
    assert licence(Path("backgrounds/tree.jpg"), **where)[0] == "GPL-2"
    assert licence(Path("half_moon.jpg"), **where)[0] == "GPL-2"
    with pytest.raises(InputError, match="unpacked whole"):
        licence(Path("a.jpg"), package="others", debs=tmp_path)
