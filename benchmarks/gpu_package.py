"""The package that gpu_check looks at, and the commands that build what it lacks for what is here."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from runtime.backends import cuda, takes_targets
from runtime.backends.tensorrt import not_listed
from runtime.backends.tensorrt_library import library
from runtime.errors import BackendUnavailable, NemuError
from runtime.manifest import EngineRecord
from runtime.package import Package

DEMO = Path("demo/out/demo.nemu")
FORMS = {"fused": [], "encoder": ["--embedding-only"], "toward": ["--toward"]}
"""Form of an engine → options that build it: with the mask, without it, with one for a target."""


def form_of(record: EngineRecord) -> str:
    """A key of `FORMS`."""
    return "encoder" if record.embedding_only else "toward" if record.takes_target else "fused"


def find_package(work: Path) -> tuple[Path | None, str]:
    """A copy, in `work`, of the package to check, so that engines can be added; and which that is."""
    given = Path(os.environ.get("PACKAGE") or DEMO)
    if not given.is_dir():
        return None, f"{given} is not there: python -m benchmarks.gpu_prepare FOLDER makes a package"
    package = work / given.name
    shutil.copytree(given, package)
    return package, str(given)


def build_command(package: Path | None, flavour: str, engine: str) -> list[str]:
    """Module and arguments that build an engine; none if it is there, or cannot be built here or of this one.

    Args:
        engine: of `FORMS`.
    """
    if package is None or not _can_build(flavour):
        return []
    try:
        opened = Package.open(package)
        records = [found.record for found in opened.engines()]
    except NemuError as error:
        print(f"{package}: {error}", file=sys.stderr)
        return []
    wanted = (flavour, str(library(flavour).__version__), engine)
    there = wanted in {(record.flavour, record.version, form_of(record)) for record in records}
    if there or (engine == "toward" and not takes_targets(opened)):
        return []
    command = ["export.build_engine", "--package", str(package), "--target", _target(flavour)]
    return [*command, *FORMS[engine], "--force", "--quiet"]


def _target(flavour: str) -> str:
    """What is built here: of TensorRT-RTX's engines only the one that this GPU runs."""
    if flavour != "rtx":
        return flavour
    try:
        turing = cuda.device(0).compute_capability == "7.5"
    except BackendUnavailable:  # built all the same, and loaded as far as it goes without a GPU
        turing = False
    return "rtx-sm75" if turing else "rtx-portable"


def _can_build(flavour: str) -> bool:
    """Whether its library is here, for the GPU that is; the classic one cannot do without a GPU."""
    try:
        library(flavour)
    except BackendUnavailable:
        return False
    try:
        gpu = cuda.device(0)
    except BackendUnavailable:
        return flavour == "rtx"
    why = not_listed(gpu.name, gpu.compute_capability) if flavour == "rtx" else ""
    if why:
        print(f"no engine is built: {why}", file=sys.stderr)
    return not why
