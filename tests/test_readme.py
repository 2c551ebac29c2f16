"""What the README shows is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_snippet_runs(package, photographs, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "demo/out/photographs").mkdir(parents=True)
    (tmp_path / "demo/out/demo.nemu").symlink_to(package)
    (tmp_path / "demo/out/pairs").mkdir()
    for name in ("photographs/coffee", "pairs/00a", "pairs/00b"):
        (tmp_path / f"demo/out/{name}.png").write_bytes((photographs / "00.png").read_bytes())
    run = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "(96, 96)" in run.stdout
    assert np.load(tmp_path / "explained/scene.mask.npy").shape == (96, 96)
    assert {p.suffix for p in (tmp_path / "explained").iterdir()} == {".png", ".npy", ".json"}


def test_every_path_it_names_is_there():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"`((?:demo|benchmarks|docs)/[\w./]+)`", README):
        assert (ROOT / name).exists() or name.startswith("demo/out"), name


def test_every_option_it_names_exists():
    from export.build_engine import parser as build
    from train.__main__ import parser as train

    known = {o for p in (build(), train()) for a in p._actions for o in a.option_strings}
    assert set(re.findall(r"(--[a-z][a-z0-9-]+)", README)) <= known | {
        "--overlays",
        "--seeds",
        "--out",
        "--nproc-per-node",
        "--no-peers",
        "--encoders",
        "--decoders",
    }  # of explain, benchmarks and torchrun
