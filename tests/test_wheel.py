"""The wheel holds every module, and `nemu explain` runs from it with the four packages that it asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from runtime import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "train", "export")
DATA = ("runtime/py.typed", "train/py.typed", "export/py.typed", "export/photographs/README.md")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built offline from a copy."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=NOT_COPIED)
    for name in ("nemu.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_every_module_and_data_file(wheel):
    assert wheel.name == f"nemu_vision-{__version__}-py3-none-any.whl"
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    images = {path.relative_to(ROOT).as_posix() for path in (ROOT / "export/photographs").glob("*.jpg")}
    assert len(images) == 8
    assert modules | images | {"nemu.py", *DATA} <= packed
    assert any(name.endswith("/report.html") for name in packed)
    assert not any(name.startswith(("tests", "demo", "benchmarks", "docs")) for name in packed)


def test_explain_runs_from_wheel_and_its_dependencies(wheel, package, photographs, tmp_path):
    """`-I -S` hides this checkout and site-packages; only the links below can be imported."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    link_dependencies(tmp_path / "site", "numpy", "onnxruntime", "Pillow", "tqdm")
    code = (
        f"import sys; sys.path.append({str(tmp_path / 'site')!r})\n"
        "import importlib.util, runpy\n"
        "assert not any(map(importlib.util.find_spec, ('torch', 'onnx', 'timm', 'pytest')))\n"
        f"sys.argv = ['nemu', 'explain', {str(package)!r}, {str(photographs)!r}, '--out', 'explained']\n"
        "runpy.run_module('nemu', run_name='__main__')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "explained/explanations.jsonl").read_text().splitlines()) == 12


def link_dependencies(site: Path, *names: str) -> None:
    """Link the installed files of these distributions, and of what they require, into `site`."""
    seen: set[str] = set()
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        installed = Path(str(found.locate_file("")))
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}:
            if not (site / top).exists() and (installed / top).exists():
                (site / top).symlink_to(installed / top)
        required = [entry for entry in found.requires or [] if ";" not in entry]
        wanted += [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in required]
