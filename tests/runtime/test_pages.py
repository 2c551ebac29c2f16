"""The pages for people: every command and every Python block on them is run, in order, on a tiny package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = ("inspection", "retrieval")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(make_package, tmp_path) -> Path:
    """Where the pages' names are: packages, a folder of photographs, two pictures, a film."""
    make_package(tmp_path / "demo.nemu")
    make_package(tmp_path / "parts.nemu")
    (tmp_path / "photographs").mkdir()
    for i, name in enumerate(["query.jpg", "match.jpg", *(f"photographs/{i}.png" for i in range(4))]):
        colour = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(colour).save(tmp_path / name)
    _film(tmp_path / "film.mp4")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_the_page_runs(page, place):
    blocks = BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
    assert len(blocks) > 1
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{_commands(place)}:{os.environ['PATH']}"}
    for kind, text in blocks:
        command = ["bash", "-euc", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_every_link_of_the_pages_leads_somewhere():
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def _commands(place: Path) -> Path:
    """`nemu` is this checkout's; `pip install` was done by whoever runs the tests."""
    folder = place / "bin"
    folder.mkdir()
    for name, text in (("nemu", f'exec {sys.executable} -m nemu "$@"'), ("pip", "true")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def _film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
