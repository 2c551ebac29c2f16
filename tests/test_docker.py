"""The Dockerfiles, checked without Docker: the files that they copy exist, and what they install runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PYTHONS = {"jetpack6": "Python 3.10 (JetPack 6)", "jetpack7": "Python 3.12 (JetPack 7)"}


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of each step; continued lines are joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied(dockerfile: Path) -> list[tuple[str, str]]:
    """(source, destination) of each file or folder that COPY takes from this folder."""
    found = []
    for instruction, rest in steps(dockerfile):
        if instruction == "COPY" and not rest.startswith("--from"):
            *sources, destination = rest.split()
            found += [(s, destination + s if destination.endswith("/") else destination) for s in sources]
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore excludes `path`: the last line that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch(path, pattern.removeprefix("**/")) or path.startswith(pattern + "/"):
                verdict = not line.startswith("!")
    return verdict


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.stem)
def test_image_copies_files_and_runs_without_root(dockerfile):
    sources = [source for source, _ in copied(dockerfile)]
    assert {"pyproject.toml", "runtime"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    given = dict(steps(dockerfile))
    assert int(given["USER"]) > 0
    assert json.loads(given["ENTRYPOINT"]) == ["nemu"]
    assert "/data" in json.loads(given["VOLUME"])
    assert given["WORKDIR"] == "/data"
    assert all(ignored(name) for name in (".git", ".venv", "tests", "demo", "benchmarks", "docs"))


@pytest.mark.parametrize("target", PYTHONS)
def test_jetson_images_install_from_wheels(target):
    """As .ci/conformance recorded, which fails when a requirement has no wheel."""
    found = json.loads((ROOT / "tests/conformance/aarch64.json").read_text())[PYTHONS[target]]
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', (ROOT / f"docker/{target}.Dockerfile").read_text())
    resolved = found[f"nemu[{extras}]"]
    assert {"numpy", "onnxruntime", "onnx", "av", "cuda-bindings"} <= set(resolved)


@pytest.mark.slow
def test_cpu_image_installs_and_runs_from_its_copies(tmp_path, package_index):
    dockerfile = ROOT / "docker/cpu.Dockerfile"
    source = tmp_path / "src"
    source.mkdir()
    for name, destination in copied(dockerfile):
        if (ROOT / name).is_dir():
            bytecode = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / destination, ignore=bytecode)
        else:
            shutil.copy(ROOT / name, source / destination)
    (install,) = [rest for word, rest in steps(dockerfile) if word == "RUN" and "pip install" in rest]
    command = install.replace("/opt/nemu", str(tmp_path / "opt")).replace("python3", sys.executable)
    subprocess.run(["bash", "-euc", command], cwd=source, check=True)
    nemu = tmp_path / "opt/bin/nemu"
    said = subprocess.run([nemu, "doctor"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^onnxruntime +\d", said, re.MULTILINE)
    assert re.search(r"^torch +missing", said, re.MULTILINE)
    helped = subprocess.run([nemu, "report", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert helped.returncode == 0
    (installed,) = (tmp_path / "opt").glob("lib/python*/site-packages")
    assert (installed / "runtime/cli/report.html").is_file()
