"""A page of docs/ walked through: its ```sh and ```python blocks, in order, where what it names is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LIMIT = 600
"""Seconds that a page may take; the issue is the first ten minutes of a person."""
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", "out", "runs", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
)


def walk(page: str, place: Path, environment: dict[str, str]) -> None:
    """Run the blocks of docs/PAGE.md in `place`.

    Raises:
        AssertionError: a block failed; with all that it said.
        subprocess.TimeoutExpired: the page took more than LIMIT.
    """
    blocks = BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
    assert len(blocks) > 1
    began = time.monotonic()
    for number, (kind, text) in enumerate(blocks):
        script = place / f".blocks/{number}.{kind}"  # below, so that `import` finds what is installed
        script.parent.mkdir(exist_ok=True)
        script.write_text(text)
        done = subprocess.run(
            ["bash", "-eu", str(script)] if kind == "sh" else ["python", str(script)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT - (time.monotonic() - began),
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    print(f"{page}: {time.monotonic() - began:.0f} s")


def furnish(place: Path) -> None:
    """The pictures and the film that the pages name."""
    (place / "photographs").mkdir()
    for i, name in enumerate(["query.jpg", "match.jpg", *(f"photographs/{i}.png" for i in range(8))]):
        colour = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(colour).save(place / name)
    (place / "normal").mkdir()
    for i in range(8):
        flat = np.random.default_rng(i).integers(100, 110, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(flat).save(place / f"normal/{i}.png")
    _film(place / "film.mp4")


def here(place: Path, *, short: str = "") -> dict[str, str]:
    """The environment of the tests: `nemu` is this checkout's, and `pip install` was done already.

    Args:
        short: options that are added to `nemu train`, for a page that trains with the defaults.
    """
    commands = {
        "nemu": _nemu(f"{sys.executable} -m nemu", short),
        "python": f'exec {sys.executable} "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "pip": "true",
    }
    return _environment(place, commands, "", str(ROOT))


def fresh(place: Path, *, short: str = "") -> dict[str, str]:
    """An environment with nothing in it, and a copy of this checkout in `place`: what a newcomer has."""
    shutil.copytree(ROOT, place, ignore=NOT_COPIED, dirs_exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(place / "nemu-env")], check=True)
    installed = place / "nemu-env/bin"
    return _environment(place, {"nemu": _nemu(str(installed / "nemu"), short)}, f"{installed}:")


def _nemu(command: str, short: str) -> str:
    """The masks of a training that was made short are worth nothing, which exit codes say."""
    assess = f'case "$*" in "assess "*) {command} "$@" || [ $? = 3 ]; exit;; esac\n'
    if not short:
        return f'{assess}exec {command} "$@"'
    trains = 'case "$*" in "train "*" --check "*) false;; "train "*) ;; *) false;; esac'
    return f'{assess}{trains} || exec {command} "$@"\n{command} "$@" {short} || [ $? = 3 ]'


def _environment(place: Path, commands: dict[str, str], path: str, *modules: str) -> dict[str, str]:
    folder = place / ".bin"
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    stand_in = str(Path(__file__).with_name("stand_in"))
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{folder}:{path}{os.environ['PATH']}",
        "PYTHONPATH": ":".join([stand_in, *modules]),
        "CAMERA": str(place / "film.mp4"),
        "XDG_CACHE_HOME": str(place / ".cache"),
    }


def _film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
