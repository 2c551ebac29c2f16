"""The pages for people: every command and every Python block on them is run, in order, on a tiny package.

Also in a fresh environment, with the page's own `pip install`; `.ci/pages` does that for the page that
installs PyTorch, too.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from pages import LIMIT, ROOT, fresh, furnish, here, walk

from runtime.package import Package

WITHOUT_TORCH = ("inspection", "retrieval", "robotics")


@pytest.fixture
def place(make_package, package, tmp_path) -> Path:
    """A folder with what the pages name: packages, a folder of photographs, two pictures, a film."""
    folder = tmp_path / "place"
    folder.mkdir()
    make_package(folder / "parts.nemu")
    shutil.copytree(package, folder / "demo.nemu")
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


@pytest.mark.parametrize("page", WITHOUT_TORCH)
def test_every_command_on_the_page_runs(page, place):
    assert walk(page, place, here(place)) < LIMIT
    if page == "robotics":
        look_at_what_the_robot_has(place)


@pytest.mark.slow
def test_every_command_of_the_researcher_runs(laboratory):
    assert walk("research", laboratory, here(laboratory)) < LIMIT
    look_at_what_the_researcher_has(laboratory)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITHOUT_TORCH)
def test_the_page_works_in_a_fresh_environment(page, place, package_index):
    """With the page's own `pip install`, in less than pages.LIMIT."""
    environment = fresh(place)
    seconds = walk(page, place, environment)
    print(f"{page}: {seconds:.0f} s in a fresh environment")
    assert seconds < LIMIT
    packages = {p.name for p in (place / "nemu-env").glob("lib/python*/site-packages/*")}
    assert "onnxruntime" in packages
    assert "torch" not in packages
    if page == "robotics":
        look_at_what_the_robot_has(place)


@pytest.mark.install
def test_the_page_of_the_researcher_works_in_a_fresh_environment(laboratory, package_index):
    environment = fresh(laboratory)
    seconds = walk("research", laboratory, environment)
    print(f"research: {seconds:.0f} s in a fresh environment")
    assert seconds < LIMIT
    look_at_what_the_researcher_has(laboratory)


def look_at_what_the_robot_has(place: Path) -> None:
    assert (place / "filmed/camera0.overlay.mp4").stat().st_size
    assert len((place / "filmed/camera0/explanations.jsonl").read_text().splitlines()) == 5
    assert {e.record.flavour for e in Package.open(place / "demo.nemu").engines()} == {"rtx"}


def look_at_what_the_researcher_has(laboratory: Path) -> None:
    rows = json.loads((laboratory / "own.json").read_text())["rows"]
    assert [(r["method"], r["seed"]) for r in rows[:3]] == [("ours", 0), ("ours", 1), ("unet", 0)]
    planted = json.loads((laboratory / "quality.json").read_text())["rows"]
    assert {r["method"] for r in planted} == {"nemu", "saliency", "random"}
    assert all(r["relevance_rank"] is not None for r in planted)
    assert "saliency" in (laboratory / "tables/quality.md").read_text()
    assert Package.open(laboratory / "mine.nemu").manifest.encoder.id == "my_encoder:load"
    assert (laboratory / "explained/explanations.jsonl").is_file()


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
