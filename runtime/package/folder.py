"""The package on disk: the files of `NAME.nemu/`, and the checks of their hashes.

docs/package.md lists the files.  Engines may be added later without touching the manifest.  A read-only
package keeps added engines in the user's cache directory, under the package's hash.  Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.atomic import atomic_file
from runtime.errors import IntegrityError, PackageError
from runtime.package.manifest import EngineRecord, Manifest, changed

MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
GRAPHS = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.trt.onnx",
}
"""Precision → the graph that engines are built from, and that `ep-rtx` runs."""
TOWARD_GRAPHS = {
    "fp32": "model.toward.onnx",
    "fp16": "model.fp16.toward.onnx",
    "bf16": "model.bf16.toward.onnx",
}
"""Precision → graph with a target as second input, in a package that takes targets; int8 has none."""


@dataclass(frozen=True)
class Engine:
    """An engine of a package: the path of its plan, and its sidecar."""

    path: Path
    record: EngineRecord

    def read(self) -> bytes:
        """Read the plan and check its hash.

        Raises:
            IntegrityError: the plan is not the one that the sidecar describes.
        """
        plan = self.path.read_bytes()
        if hashlib.sha256(plan).hexdigest() != self.record.sha256:
            raise changed(self.path)
        return plan


@dataclass(frozen=True)
class Package:
    """An opened package.  Make one with `Package.open`."""

    path: Path
    manifest: Manifest
    hash: str
    """sha256 of `manifest.json`, which itself holds the sha256 of every other file."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """Read the manifest and check every file that it names (one sha256 over the whole package).

        Raises:
            PackageError: there is no package.
            SchemaError: see `Manifest.from_json`.
            IntegrityError: a file is missing or was changed.
        """
        root = Path(path)
        file = root / MANIFEST
        if not file.is_file():
            raise PackageError(
                f"{root} holds no {MANIFEST}",
                expected="a package folder, such as demo.nemu",
                cure="build one: nemu build --masker masker.safetensors --out x.nemu",
            )
        raw = file.read_bytes()
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise changed(file) from error
        package = cls(root, Manifest.from_json(text, source=str(file)), hashlib.sha256(raw).hexdigest())
        package.verify()
        return package

    def verify(self) -> None:
        """Check that every file that the manifest names exists and has its recorded hash."""
        for name, expected in self.manifest.files.items():
            path = self._inside(name)
            if not path.is_file():
                raise IntegrityError(
                    f"{path} is missing",
                    expected=f"the {len(self.manifest.files)} files that {self.path / MANIFEST} names",
                    cure="copy the whole package folder again",
                )
            if sha256_file(path) != expected:
                raise changed(path)

    def file(self, name: str) -> Path:
        """The path of a file that the package was built with, e.g. `model.onnx`.

        Raises:
            PackageError: the package was built without it.
        """
        if name not in self.manifest.files:
            raise PackageError(
                f"{self.path} was built without {name}",
                expected="one of " + ", ".join(sorted(self.manifest.files)),
                cure="build the package again with the precision you need (--precision)",
            )
        return self._inside(name)

    def engines(self) -> list[Engine]:
        """The engines in the package and in the user's cache for it, by file name.

        Raises:
            SchemaError: a sidecar cannot be read.
            IntegrityError: an engine without sidecar, a sidecar without engine, or one of another package.
        """
        found = []
        for folder in (self.path / "engines", self.cache() / "engines"):
            plans = set(folder.glob("*.engine"))
            for plan in sorted(plans | {p.with_suffix("") for p in folder.glob("*.engine.json")}):
                sidecar = plan.with_name(plan.name + ".json")
                if missing := [half for half in (plan, sidecar) if not half.is_file()]:
                    raise IntegrityError(
                        f"{missing[0]} is missing",
                        expected="every engine beside its sidecar NAME.engine.json",
                        cure=f"delete the other half and build again: {self.build_command()}",
                    )
                text = sidecar.read_text(errors="replace")
                record = EngineRecord.from_json(text, source=str(sidecar))
                if record.package != self.hash:
                    raise IntegrityError(
                        f"{plan} was built from another package ({record.package})",
                        expected=f"an engine of this one ({self.hash})",
                        cure=f"delete it and build again: {self.build_command()}",
                    )
                found.append(Engine(plan, record))
        return found

    def add_engine(self, name: str, plan: bytes, record: EngineRecord, *, force: bool = False) -> Engine:
        """Write `engines/NAME.engine` and its sidecar; into the user's cache if the package is read-only.

        Raises:
            OutputExists: an engine of that name exists and `force` is not given.
        """
        path = self.engine_path(name)
        sidecar = path.with_name(path.name + ".json")
        with atomic_file(path, force=force) as plan_file, atomic_file(sidecar, force=force) as sidecar_file:
            plan_file.write_bytes(plan)
            sidecar_file.write_text(record.to_json())
        return Engine(path, record)

    def remove_engine(self, name: str) -> None:
        """Delete `engines/NAME.engine` and its sidecar, if they exist."""
        path = self.engine_path(name)
        for file in (path.with_name(path.name + ".json"), path):
            file.unlink(missing_ok=True)

    def engine_path(self, name: str) -> Path:
        """The path of an added engine: in the package, or in the user's cache if the package is read-only."""
        root = self.path if os.access(self.path, os.W_OK) else self.cache()
        return root / "engines" / f"{name}.engine"

    def cache(self) -> Path:
        """The folder in the user's cache for what cannot be written into the package."""
        return cache_folder(self.hash)

    def build_command(self) -> str:
        """The command that adds an engine for the device at hand."""
        return f"nemu build --package {self.path}"

    def _inside(self, name: str) -> Path:
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise IntegrityError(
                f"{self.path / MANIFEST} names {name}, outside the package",
                expected="paths inside the package",
                cure="do not use this package: get it again from where it came from",
            )
        return path


def cache_folder(package_hash: str) -> Path:
    """The folder of `Package.cache`, from the package's hash alone (a sidecar holds it)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nemu" / package_hash[:32]


def sha256_file(path: Path) -> str:
    """sha256 of a file as 64 hexadecimal digits; the file is read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def files_in(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below `root`, sorted: its POSIX path relative to `root`, and its path."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        yield path.relative_to(root).as_posix(), path
