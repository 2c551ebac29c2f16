"""The Dockerfiles, without Docker: their sources are there and let through, and what they install runs."""

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
    """(instruction, the rest) of each, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied(dockerfile: Path) -> list[tuple[str, str]]:
    """(source, destination) of each COPY from this folder."""
    found = []
    for instruction, rest in steps(dockerfile):
        if instruction == "COPY" and not rest.startswith("--from"):
            *sources, destination = rest.split()
            found += [(s, destination + s if destination.endswith("/") else destination) for s in sources]
    return found


def extras(dockerfile: Path) -> str:
    (given,) = re.findall(r'"\.\[([\w,]+)\]"', dockerfile.read_text())
    return given


def ignored(path: str) -> bool:
    """By .dockerignore, whose last line that fits decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch(path, pattern.removeprefix("**/")) or path.startswith(pattern + "/"):
                verdict = not line.startswith("!")
    return verdict


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.stem)
def test_what_is_copied_is_there_and_let_through(dockerfile):
    sources = [source for source, _ in copied(dockerfile)]
    assert {"pyproject.toml", "runtime"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert all(ignored(name) for name in (".git", ".venv", "tests", "demo", "benchmarks", "docs"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.stem)
def test_it_does_not_run_as_root_and_is_the_command(dockerfile):
    said = dict(steps(dockerfile))
    assert int(said["USER"]) > 0
    assert json.loads(said["ENTRYPOINT"]) == ["nemu"]
    assert "/data" in json.loads(said["VOLUME"])
    assert said["WORKDIR"] == "/data"


@pytest.mark.parametrize("target", PYTHONS)
def test_what_a_jetson_image_installs_has_wheels(target):
    """As .ci/conformance found; it fails if something resolves no more."""
    found = json.loads((ROOT / "tests/conformance/aarch64.json").read_text())[PYTHONS[target]]
    resolved = found[f"nemu[{extras(ROOT / f'docker/{target}.Dockerfile')}]"]
    assert {"numpy", "onnxruntime", "onnx", "av", "cuda-bindings"} <= set(resolved)


@pytest.mark.slow
def test_what_the_cpu_image_copies_is_enough_to_install_and_run(tmp_path, package_index):
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
    assert (installed / "runtime/report.html").is_file()
