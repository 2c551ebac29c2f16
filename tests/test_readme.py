"""README, CONTRIBUTING, CHANGELOG and the notebook: examples and commands run, links and options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OF_OTHER_PROGRAMS = {"--nproc-per-node"}  # torchrun


@pytest.fixture
def after_demo(package, photographs, tmp_path, monkeypatch) -> Path:
    """A folder in which README's examples find what `make demo` writes; this checkout can be imported."""
    (tmp_path / "demo/out/photographs").mkdir(parents=True)
    (tmp_path / "demo/out/demo.nemu").symlink_to(package)
    (tmp_path / "demo/out/pairs").mkdir()
    for name in ("photographs/coffee", "pairs/00a", "pairs/00b"):
        (tmp_path / f"demo/out/{name}.png").write_bytes((photographs / "00.png").read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)


def test_example_of_the_readme_runs(after_demo):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = run("-c", snippet, cwd=after_demo)
    assert done.returncode == 0, done.stderr
    assert "(96, 96)" in done.stdout
    assert np.load(after_demo / "explained/scene.mask.npy").shape == (96, 96)
    assert {p.suffix for p in (after_demo / "explained").iterdir()} == {".png", ".npy", ".json"}


@pytest.mark.slow
def test_commands_of_the_readme_run(after_demo, photographs, weights):
    """On a small encoder, for a few steps; the exit code 3 of `nemu train` says that such masks are grey."""
    small = f"timm/test_resnet --weights {weights} --image-size 64 --steps 4 --batch-size 4 --no-toward"
    page = README.replace("timm/resnet50", small).replace("PHOTOGRAPHS", str(photographs))
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^nemu (.+)$", "".join(blocks), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "build", "explain"]
    for command in commands:
        done = run("-m", "nemu", *shlex.split(command), cwd=after_demo)
        assert done.returncode in ((0, 3) if command.startswith("train") else (0,)), done.stderr
    assert len((after_demo / "explained/explanations.jsonl").read_text().splitlines()) == 12


def test_notebook_runs_and_is_stored_without_outputs(after_demo):
    notebook = nbformat.read(ROOT / "examples/explain.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(after_demo)}}).execute()
    assert all(cell.execution_count for cell in cells)
    images = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(images) == 2


def test_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda p: p.stem)
def test_links_paths_and_make_targets_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for name in re.findall(r"`((?:demo|benchmarks|docs|tests|\.ci)/[\w./]+)`", text):
        assert (ROOT / name).exists() or name.startswith("demo/out"), name
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)(?=`|    #)", text)) <= set(targets)


def test_options_exist():
    commands = ("train", "build", "explain")
    helped = "".join(run("-m", "nemu", name, "--help", cwd=ROOT).stdout for name in commands)
    known = set(re.findall(r"--[a-z][a-z0-9-]+", helped)) | OF_OTHER_PROGRAMS
    for page in ("README.md", "docs/options.md", "docs/package.md"):
        named = set(re.findall(r"--[a-z][a-z0-9-]+", (ROOT / page).read_text()))
        assert named <= known, page
