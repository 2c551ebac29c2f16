"""The command nemu and its module: help, output, exit codes, and the names of runtime."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import nemu
from runtime import Explainer
from runtime.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def places(package_path, photos, tmp_path):
    """What the words in capitals of a command stand for."""
    places = {"PACKAGE": package_path, "PHOTOS": photos, "PHOTO": photos / "00.png", "OUT": tmp_path / "out"}
    return {**places, "CELLS": tmp_path / "cells.nemu", "BANK": tmp_path / "line.bank"}


def words(command: str, places: dict[str, Path]) -> list[str]:
    return re.sub("[A-Z]+", lambda word: str(places[word[0]]), command).split()


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("explain none.nemu PHOTO --out OUT", "holds no manifest.json"),
        ("explain PACKAGE nowhere --out OUT", "nowhere does not exist"),
        ("explain PACKAGE PACKAGE --out OUT", "holds no images"),
        ("info none.nemu", "holds no manifest.json"),
        ("verify none.nemu", "holds no manifest.json"),
        ("doctor none.nemu", "holds no manifest.json"),
    ],
)
def test_errors_have_came_expected_and_cure(places, capsys, command, word):
    assert main(words(command, places)) == 1
    printed = capsys.readouterr().err
    for expected in (word, "expected:", "cure:"):
        assert expected in printed


COMMANDS = [
    "explain PACKAGE PHOTO --out OUT --force",
    "compare PACKAGE PHOTO PHOTOS/01.png --out OUT --force",
    "report PACKAGE PHOTOS --out OUT.html --force",
    "bank CELLS PHOTOS --out OUT.bank --force",
    "anomalies CELLS BANK PHOTOS --out OUT --force",
    "diff PACKAGE PACKAGE --images PHOTOS",
    "bench PACKAGE --seconds 0",
    "info PACKAGE",
    "doctor PACKAGE",
    "verify PACKAGE",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_text_json_and_quiet_output(command, places, capsys, make_package):
    if "CELLS" in command:
        make_package(places["CELLS"], cells=True)
        assert main(words("bank CELLS PHOTOS --out BANK --quiet", places)) == 0
    name, *rest = words(command, places)
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"example: nemu {name}" in capsys.readouterr().out
    assert main([name, *rest]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: ")
    assert main([name, *rest, "--json", "--quiet"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert main([name, *rest, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain"])
    assert stopped.value.code == 2
    assert nemu.main([]) == 2
    assert nemu.main(["explode"]) == 2
    assert "explode" in capsys.readouterr().err


def test_nemu_passes_arguments_and_exit_codes(package_path, capsys):
    assert nemu.main(["info", str(package_path)]) == 0
    assert "tiny-mean" in capsys.readouterr().out
    assert nemu.main(["info", "none.nemu"]) == 1
    assert nemu.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("train", "build", "explain", "info", "doctor", "verify"):
        assert f"  {command} " in printed
    assert nemu.main(["--version"]) == 0


@pytest.mark.parametrize(
    ("command", "library", "extra"), [("train", "torch", "train"), ("build", "onnx", "export")]
)
def test_nemu_names_the_missing_extra(command, library, extra, capsys, monkeypatch):
    missing = ModuleNotFoundError(f"No module named {library!r}", name=library)
    monkeypatch.setattr(nemu.importlib, "import_module", Mock(side_effect=missing))
    assert nemu.main([command]) == 1
    printed = capsys.readouterr().err
    assert library in printed
    assert f'".[{extra}]"' in printed


def test_nemu_exports_the_names_of_runtime():
    assert nemu.Explainer is Explainer
    assert set(nemu.__all__) <= set(dir(nemu))
    with pytest.raises(AttributeError, match="explode"):
        nemu.explode  # noqa: B018


def test_nemu_help_imports_no_runtime():
    code = "import sys, nemu; nemu.main(['--help']); print('runtime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
