"""The package that gpu_check looks at, and the commands that build the engines that it lacks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from runtime.backends import cuda
from runtime.backends.choice import takes_targets
from runtime.backends.tensorrt.library import library
from runtime.backends.tensorrt.selection import not_listed
from runtime.errors import BackendUnavailable, NemuError
from runtime.package.folder import Package
from runtime.package.manifest import EngineRecord

DEMO = Path("demo/out/demo.nemu")
FORMS = {"fused": [], "encoder": ["--embedding-only"], "toward": ["--toward"]}
"""Form of an engine → options that build it: with the mask, embedding only, with a mask toward a target."""


def form_of(record: EngineRecord) -> str:
    """A key of `FORMS`."""
    return "encoder" if record.embedding_only else "toward" if record.takes_target else "fused"


def find_package(work: Path) -> tuple[Path | None, str]:
    """Copy the package to check into `work`, so that engines can be added; the copy, and the path copied."""
    given = Path(os.environ.get("PACKAGE") or DEMO)
    if not given.is_dir():
        return None, f"{given} does not exist: make demo writes it, and PACKAGE names another"
    package = work / given.name
    shutil.copytree(given, package)
    return package, str(given)


def build_command(package: Path | None, flavour: str, engine: str) -> list[str]:
    """Module and arguments that build an engine; empty if it exists or cannot be built.

    Args:
        engine: a key of `FORMS`.
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
    """The build target; for TensorRT-RTX, only the engine that this GPU runs."""
    if flavour != "rtx":
        return flavour
    try:
        turing = cuda.device(0).compute_capability == "7.5"
    except BackendUnavailable:  # without a GPU it is built, and loaded as far as possible
        turing = False
    return "rtx-sm75" if turing else "rtx-portable"


def _can_build(flavour: str) -> bool:
    """Whether the library is here and supports this GPU; only TensorRT-RTX builds without a GPU."""
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
