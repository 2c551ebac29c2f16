"""Files and folders are written completely or not at all."""

from __future__ import annotations

import os

import pytest

from runtime.atomic import atomic_file, atomic_folder
from runtime.errors import OutputExists


def test_file_appears_whole_with_the_users_permissions(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    (tmp_path / "plain").touch()
    assert path.read_text() == "whole"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_an_interruption_keeps_the_old_one(tmp_path, kind, error):
    path, folder = tmp_path / "old", kind is atomic_folder
    inside = path / "kept" if folder else path
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("kept")
    before = sorted(tmp_path.rglob("*"))

    def write():
        with kind(path, force=True) as temporary:
            (temporary / "half" if folder else temporary).write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert inside.read_text() == "kept"
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_is_replaced_only_with_force(tmp_path):
    path = tmp_path / "folder"
    for force, text in ((False, "first"), (True, "second")):
        with atomic_folder(path, force=force) as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputExists), atomic_folder(path):
        pytest.fail("nothing is computed")


def test_ctrl_c_between_renames_restores_the_folder(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    real = os.replace

    def interrupted(source, target):
        real(source, target)
        if source == path:
            monkeypatch.setattr(os, "replace", real)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, force=True) as temporary:
        (temporary / "new").touch()
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
