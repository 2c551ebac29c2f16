"""A package opens only if it is complete and unchanged."""

from __future__ import annotations

import json
import os

import pytest

from runtime.errors import IntegrityError, OutputExists, PackageError, SchemaError
from runtime.package.folder import MANIFEST, Package
from runtime.package.manifest import SCHEMA
from tests.engine_record import engine_record

FILES = ["README.md", "model.onnx", "model.onnx.data", "reference.npz"]


def test_it_opens_and_names_its_files(package_path):
    package = Package.open(package_path)
    assert sorted(package.manifest.files) == FILES
    assert package.file("model.onnx") == package_path / "model.onnx"
    assert Package.open(str(package_path)).hash == package.hash
    with pytest.raises(PackageError, match=r"without model\.fp16\.onnx"):
        package.file("model.fp16.onnx")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(package_path, name):
    (package_path / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        Package.open(package_path)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_byte_is_refused(package_path, name, place):
    content = bytearray((package_path / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -3}[place]] ^= 1
    (package_path / name).write_bytes(content)
    with pytest.raises((IntegrityError, SchemaError), match=name):
        Package.open(package_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(PackageError, match=r"holds no manifest\.json"):
        Package.open(tmp_path)


@pytest.mark.parametrize("text", ["", "  \n", "{", "[]", "{}", '{"schema": 1}', "null", '"text"'])
def test_an_empty_or_broken_manifest_is_refused(package_path, text):
    (package_path / MANIFEST).write_text(text)
    with pytest.raises(SchemaError, match=r"manifest\.json"):
        Package.open(package_path)


def test_a_newer_schema_is_refused_with_the_cure(package_path):
    fields = json.loads((package_path / MANIFEST).read_text())
    fields.update(schema=SCHEMA + 1, something_new=1, nemu="9.8.7")
    (package_path / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(SchemaError, match=f"schema {SCHEMA + 1}") as caught:
        Package.open(package_path)
    assert "9.8.7" in caught.value.cure


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "engines/../../outside"])
def test_a_path_that_leaves_the_package_is_refused(package_path, rewrite, name):
    (package_path.parent / "outside").write_text("secret")
    rewrite(package_path, files={name: "0" * 64})
    with pytest.raises(IntegrityError, match="outside the package"):
        Package.open(package_path)


def test_a_link_that_leaves_the_package_is_refused(package_path, tmp_path):
    (tmp_path / "model").write_bytes((package_path / "model.onnx").read_bytes())
    (package_path / "model.onnx").unlink()
    (package_path / "model.onnx").symlink_to(tmp_path / "model")
    with pytest.raises(IntegrityError, match="outside the package"):
        Package.open(package_path)


def test_engines_are_added_without_touching_the_manifest(package_path):
    package = Package.open(package_path)
    other = engine_record(package, b"another plan")
    before = (package_path / MANIFEST).read_bytes()
    engine = package.add_engine("demo", b"a plan", other)
    assert (package_path / MANIFEST).read_bytes() == before
    assert Package.open(package_path).engines() == [engine]
    assert engine.record == other
    with pytest.raises(OutputExists):
        package.add_engine("demo", b"another plan", other)
    with pytest.raises(IntegrityError, match=r"demo\.engine"):
        engine.read()


def test_an_engine_of_another_package_is_refused(package_path, add):
    """A device would otherwise give another encoder's embedding under this package's id."""
    package = Package.open(package_path)
    add(package, "demo", package="0" * 64)
    with pytest.raises(IntegrityError, match="built from another package"):
        package.engines()


@pytest.mark.parametrize("half", ["demo.engine", "demo.engine.json"])
def test_half_an_engine_is_refused(package_path, add, half):
    package = Package.open(package_path)
    add(package, "demo")
    (package_path / "engines" / half).unlink()
    with pytest.raises(IntegrityError, match=half):
        package.engines()


def test_a_read_only_package_caches_its_engines(package_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    package = Package.open(package_path)
    engine = package.add_engine("demo", b"a plan", engine_record(package, b"a plan"))
    assert engine.path.is_relative_to(tmp_path / "cache")
    assert package.engines() == [engine]
    assert not (package_path / "engines").exists()
