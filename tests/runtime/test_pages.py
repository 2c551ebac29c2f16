"""The pages for people: every command and every Python block on them is run, in order, on a tiny package.

Also in a fresh environment, with the page's own `pip install`; `.ci/pages` does that for the pages that
install PyTorch, too.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.media.encode import save_png
from runtime.media.geometry import load_image
from runtime.media.sources import find_images
from runtime.package.folder import Package
from tests.runtime.pages import ROOT, fresh, furnish, here, walk
from tests.toward_graph import add_targets

WITHOUT_TORCH = ("inspection", "retrieval", "robotics")
SHORT = "--image-size 64 --steps 5 --batch-size 4"
"""Options of a short training, for a page that takes the defaults."""


@pytest.fixture(
    params=[pytest.param(here, marks=pytest.mark.slow), pytest.param(fresh, marks=pytest.mark.install)]
)
def environment(request):
    """`here` or `fresh`, for pages that install PyTorch."""
    if request.param is fresh:
        request.getfixturevalue("package_index")
    return request.param


@pytest.fixture
def place(make_package, package, tmp_path) -> Path:
    """A folder with what the pages name: packages, a folder of photographs, two pictures, a film."""
    folder = tmp_path / "place"
    folder.mkdir()
    add_targets(make_package(folder / "parts.nemu", cells=True))
    add_targets(Path(shutil.copytree(package, folder / "demo.nemu")))
    furnish(folder)
    return folder


@pytest.fixture
def laboratory(photographs, tmp_path) -> Path:
    """The researcher's: photographs, and nothing else."""
    folder = tmp_path / "laboratory"
    folder.mkdir()
    furnish(folder)
    shutil.copytree(photographs, folder / "photographs", dirs_exist_ok=True)
    return folder


@pytest.fixture
def beginning(photographs, tmp_path) -> Path:
    """The newcomer's: photographs to train on and others, a single one, and the encoder's weights."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "beginning"
    shutil.copytree(photographs, folder / "scenes")
    scenes = [load_image(file) for file in find_images(folder / "scenes")]
    for i in range(216):  # 192 to train on: so many are needed for some to be set apart
        shifted = np.roll(scenes[i % 12], 5 * (i // 12), axis=1)
        save_png(folder / f"{'photographs' if i < 192 else 'unseen'}/{i}.png", shifted)
    Image.fromarray(scenes[0]).save(folder / "photo.jpg")
    save_file(timm.create_model("mobilenetv2_100").state_dict(), folder / "encoder.safetensors")
    return folder


@pytest.mark.parametrize("page", WITHOUT_TORCH)
def test_commands_of_the_page_run(page, place):
    walk(page, place, here(place))
    if page == "robotics":
        check_robotics_results(place)
    if page == "retrieval":
        check_retrieval_results(place)


def test_commands_of_research_page_run(laboratory, environment):
    walk("research", laboratory, environment(laboratory))
    check_research_results(laboratory)


def test_commands_of_training_page_run(beginning, environment):
    walk("training", beginning, environment(beginning, short=SHORT))
    check_training_results(beginning)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITHOUT_TORCH)
def test_page_works_in_a_fresh_environment(page, place, package_index):
    """With the page's own `pip install`, in less than pages.LIMIT."""
    walk(page, place, fresh(place))
    packages = {p.name for p in (place / "nemu-env").glob("lib/python*/site-packages/*")}
    assert "onnxruntime" in packages
    assert "torch" not in packages
    if page == "robotics":
        check_robotics_results(place)


def check_training_results(place: Path) -> None:
    package = Package.open(place / "first.nemu").manifest
    assert package.encoder.id == "timm/mobilenetv2_100"
    assert (package.training.images, package.metrics.n, package.level.n) == (168, 24, 24)
    for folder in ("explained", "kept"):
        assert len(list((place / folder).glob("*.overlay.jpg"))) == 24
    card, page = (file.read_text() for file in (place / "first.nemu/README.md", ROOT / "docs/training.md"))
    quoted = re.findall(r"^(\| .*) \| [\d.]+ ± [\d.]+ \| \d+ \|$", page, re.MULTILINE)
    assert len(quoted) == 4
    assert all(measure in card for measure in quoted)


def check_robotics_results(place: Path) -> None:
    assert (place / "filmed/camera0.overlay.mp4").stat().st_size
    assert len((place / "filmed/camera0/explanations.jsonl").read_text().splitlines()) == 5
    assert {e.record.flavour for e in Package.open(place / "demo.nemu").engines()} == {"rtx"}


def check_retrieval_results(place: Path) -> None:
    records = [
        json.loads((place / f"{folder}/query-match.compare.json").read_text())
        for folder in ("compared", "why")
    ]
    assert all("toward" in record[side] for record in records for side in "ab")
    lines = [json.loads(line) for line in (place / "like-query/explanations.jsonl").read_text().splitlines()]
    asked = np.load(place / "like-query/toward.npy")
    rows = np.load(place / "like-query/embeddings.npy")
    cosines = rows @ asked / np.linalg.norm(rows, axis=1) / np.linalg.norm(asked)
    assert [line["toward"]["similarity"] for line in lines] == pytest.approx(cosines, abs=1e-4)
    assert len(lines) == 8
    assert (place / "assessed.png").is_file()


def check_research_results(laboratory: Path) -> None:
    rows = json.loads((laboratory / "own.json").read_text())["rows"]
    assert [(r["method"], r["seed"]) for r in rows[:3]] == [("ours", 0), ("ours", 1), ("unet", 0)]
    planted = json.loads((laboratory / "quality.json").read_text())["rows"]
    assert {r["method"] for r in planted} == {"nemu", "saliency", "random"}
    assert all(r["relevance_rank"] is not None for r in planted)
    assert "saliency" in (laboratory / "tables/quality.md").read_text()
    assert Package.open(laboratory / "mine.nemu").manifest.encoder.id == "my_encoder:load"
    assert (laboratory / "explained/explanations.jsonl").is_file()
