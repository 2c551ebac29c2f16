"""The package that gpu_check looks at, with engines for what is here; how it runs the project's commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from runtime.backends import cuda
from runtime.backends.tensorrt_library import library
from runtime.errors import BackendUnavailable, NemuError
from runtime.package import Package

DEMO = Path("demo/out/demo.nemu")


def find_package(work: Path, *, limit: float) -> tuple[Path | None, str]:
    """The package to check, with an engine of every TensorRT that builds one here; how it came about.

    Args:
        work: a folder for it; a package that is there already is copied.
        limit: seconds that each command may take.
    """
    given = Path(os.environ.get("PACKAGE") or DEMO)
    said = []
    if given.is_dir():
        package = work / given.name
        shutil.copytree(given, package)  # engines are added to the copy
        said.append(str(given))
    elif "PACKAGE" in os.environ:
        return None, f"PACKAGE={given} is not there"
    else:
        package = work / "small.nemu"
        failure = _make(work, package, limit)
        if failure:
            return None, f"{DEMO} is not there, and none could be made: {failure}"
        said.append(f"{DEMO} is not there; made a small one with an untrained masker")
    for flavour in ("rtx", "tensorrt"):
        if _can_build(flavour) and not _has_engine(package, flavour):
            command = ("export.build_engine", "--package", str(package), "--target", _target(flavour))
            failure = _command(*command, "--force", "--quiet", limit=limit)
            said.append(
                f"no {flavour} engine: {failure}" if failure else f"its {flavour} engine was built here"
            )
    return package, "; ".join(said)


def _target(flavour: str) -> str:
    """What is built here: of TensorRT-RTX's engines only the one that this GPU runs."""
    if flavour != "rtx":
        return flavour
    try:
        turing = cuda.device(0).compute_capability == "7.5"
    except BackendUnavailable:  # built all the same, and loaded as far as it goes without a GPU
        turing = False
    return "rtx-sm75" if turing else "rtx-portable"


def run(module: str, *arguments: str, limit: float) -> tuple[int, str]:
    """Run a module of the project in a process group of its own; its exit status and stderr."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            stderr = process.communicate(timeout=limit)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            stderr = process.communicate()[1] + f"\nstopped after {limit:.0f} s"
        except BaseException:  # Ctrl-C, or an end from outside: nothing may go on alone
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, stderr


def _make(work: Path, package: Path, limit: float) -> str:
    """A small package by the project's own commands; empty, or what failed."""
    out = work / "run"
    return _command(
        *("train", "--encoder", "timm/resnet10t", "--weights", "demo/encoder.safetensors"),
        *("--data", "export/photographs", "--image-size", "96", "--steps", "4", "--batch-size", "4"),
        *("--area-weight", "1", "--out", str(out), "--quiet"),
        limit=limit,
    ) or _command(
        *("export.build_engine", "--masker", str(out / "masker.safetensors"), "--out", str(package)),
        "--quiet",
        limit=limit,
    )


def _can_build(flavour: str) -> bool:
    """Whether its library is here; the classic one needs the GPU that it builds for as well."""
    try:
        library(flavour)
        if flavour == "tensorrt":
            cuda.device(0)
    except BackendUnavailable:
        return False
    return True


def _has_engine(package: Path, flavour: str) -> bool:
    """Whether it holds an engine of the very version that is here."""
    try:
        records = [engine.record for engine in Package.open(package).engines()]
    except NemuError as error:
        print(f"{package}: {error}", file=sys.stderr)
        return False
    here = str(library(flavour).__version__)
    explains = [record for record in records if not record.embedding_only]
    return any(record.flavour == flavour and record.version == here for record in explains)


def _command(module: str, *arguments: str, limit: float) -> str:
    """Run one of the project's commands; empty, or the end of what it printed if it failed."""
    status, stderr = run(module, *arguments, limit=limit)
    return f"python -m {module} exited with {status}: {stderr[-2000:]}" if status else ""
