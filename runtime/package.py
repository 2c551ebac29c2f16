"""The compiled package on disk: what is in `NAME.nemu/`, and whether it can be trusted.

    manifest.json           Manifest: immutable, carries its own digest and the sha256 of every file below
    model.onnx  (+ .data)   fp32, runs anywhere, the parity reference
    model.fp16.onnx (+ .data)   typed half precision, what a device builds its engine from
    model.bf16.onnx, model.int8.trt.onnx (+ .data)   the same in bfloat16, in int8 for TensorRT
    model.int8.cpu.onnx (+ .data)   int8 for onnxruntime
    model.embedding.onnx, model.int8.cpu.embedding.onnx   fp32 and int8 for onnxruntime without the mask;
                            their weights are in the .data of the whole graphs
    model.toward.onnx, model.fp16.toward.onnx, model.bf16.toward.onnx   with a target for each image as second
                            input, if the masker takes targets
    model.cells.onnx        fp32 for onnxruntime: embedding and local features, for a bank of normal pictures
    reference.npz           images and the outputs they must give; if it takes targets, some, and their masks
    README.md               the model card
    level.svg               its picture of what a level of the mask keeps, if the manifest has `level`
    engines/NAME.engine     a plain plan, nothing prepended: other tools can load it
    engines/NAME.engine.json    EngineRecord, its sidecar

Engines may be added later without touching the manifest.  A read-only package keeps added engines in
the user's cache directory, under the package's hash.  Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.atomic import atomic_file
from runtime.errors import IntegrityError, PackageError
from runtime.manifest import EngineRecord, Manifest, changed

MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
GRAPHS = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.trt.onnx",
}
"""Precision → the file that engines of it are built from, and that `ep-rtx` runs."""
TOWARD_GRAPHS = {
    "fp32": "model.toward.onnx",
    "fp16": "model.fp16.toward.onnx",
    "bf16": "model.bf16.toward.onnx",
}
"""The same with a target as second input, in a package that takes targets; int8 has no such form."""


@dataclass(frozen=True)
class Engine:
    """An engine of a package: its plan and its sidecar."""

    path: Path
    record: EngineRecord

    def read(self) -> bytes:
        """The plan, after its hash was checked.

        Raises:
            IntegrityError: the plan is not the one the sidecar describes.
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
        """Read the manifest and check every file it names (cost: one sha256 over the package).

        Raises:
            PackageError: no package there.
            SchemaError: see `Manifest.from_json`.
            IntegrityError: a file is missing or was changed.
        """
        root = Path(path)
        file = root / MANIFEST
        if not file.is_file():
            raise PackageError(
                f"{root} holds no {MANIFEST}",
                expected="a package folder, such as demo.nemu",
                cure="build one: python -m export.build_engine --masker masker.safetensors --out x.nemu",
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
        """Check that every file the manifest names is there and is the one that was written."""
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
        """The path of a file the package was born with, e.g. `model.onnx`.

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
        """Engines in the package and in the user's cache for it, by file name.

        Raises:
            SchemaError: a sidecar that cannot be read.
            IntegrityError: an engine without sidecar, a sidecar without engine, or one of another package.
        """
        found = []
        for folder in (self.path / "engines", self.cache() / "engines"):
            plans = set(folder.glob("*.engine"))
            for plan in sorted(plans | {p.with_suffix("") for p in folder.glob("*.engine.json")}):
                sidecar = plan.with_name(plan.name + ".json")
                for half in (plan, sidecar):
                    if not half.is_file():
                        raise IntegrityError(
                            f"{half} is missing",
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
        """Write `engines/NAME.engine` and its sidecar, into the cache if the package is read-only.

        Raises:
            OutputExists: an engine of that name is there and `force` is not given.
        """
        path = self.engine_path(name)
        sidecar = path.with_name(path.name + ".json")
        with atomic_file(path, force=force) as plan_file, atomic_file(sidecar, force=force) as sidecar_file:
            plan_file.write_bytes(plan)
            sidecar_file.write_text(record.to_json())
        return Engine(path, record)

    def remove_engine(self, name: str) -> None:
        """Delete `engines/NAME.engine` and its sidecar, if they are there."""
        path = self.engine_path(name)
        for file in (path.with_name(path.name + ".json"), path):
            file.unlink(missing_ok=True)

    def engine_path(self, name: str) -> Path:
        """Where an added engine goes: into the package, or into the cache if that is read-only."""
        root = self.path if os.access(self.path, os.W_OK) else self.cache()
        return root / "engines" / f"{name}.engine"

    def cache(self) -> Path:
        """Where this package keeps what it may not keep inside itself: the user's cache, by its hash."""
        return cache_folder(self.hash)

    def build_command(self) -> str:
        """The command that adds an engine for the device at hand."""
        return f"python -m export.build_engine --package {self.path}"

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
    """See `Package.cache`; for those who have only a sidecar, which names the package's hash."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nemu" / package_hash[:32]


def sha256_file(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits; reads it in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def files_in(root: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `root` as (POSIX path relative to it, path), sorted."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        yield path.relative_to(root).as_posix(), path
