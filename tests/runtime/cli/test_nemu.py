"""The command nemu and its module: help, output, exit codes, and the names of runtime."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nemu
from runtime import Explainer
from runtime.__main__ import main
from runtime.media.encode import save_png

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["explain", "none.nemu", "PHOTO", "--out", "OUT"], "holds no manifest.json"),
        (["explain", "PACKAGE", "nowhere", "--out", "OUT"], "nowhere does not exist"),
        (["explain", "PACKAGE", "EMPTY", "--out", "OUT"], "holds no images"),
        (["info", "none.nemu"], "holds no manifest.json"),
        (["verify", "none.nemu"], "holds no manifest.json"),
    ],
)
def test_errors_have_came_expected_and_cure(package_path, photos, tmp_path, capsys, arguments, word):
    (tmp_path / "empty").mkdir()
    places = {"PACKAGE": package_path, "PHOTO": photos / "00.png"}
    places |= {"OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    assert main([str(places.get(a, a)) for a in arguments]) == 1
    printed = capsys.readouterr().err
    for expected in (word, "expected:", "cure:"):
        assert expected in printed


@pytest.mark.parametrize(
    "command",
    ["explain", "compare", "report", "bank", "anomalies", "diff", "bench", "info", "doctor", "verify"],
)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example: nemu {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "PACKAGE", "PHOTO", "--out", "OUT", "--force"],
        ["compare", "PACKAGE", "PHOTO", "PHOTOS/01.png", "--out", "OUT", "--force"],
        ["report", "PACKAGE", "PHOTOS", "--out", "OUT.html", "--force"],
        ["bank", "CELLS", "NORMAL", "--out", "OUT.bank", "--force"],
        ["anomalies", "CELLS", "BANK", "PHOTOS", "--out", "OUT", "--force"],
        ["diff", "PACKAGE", "PACKAGE", "--images", "PHOTOS"],
        ["bench", "PACKAGE", "--seconds", "0"],
        ["info", "PACKAGE"],
        ["doctor", "PACKAGE"],
        ["verify", "PACKAGE"],
    ],
    ids=lambda command: command[0],
)
def test_text_json_and_quiet_output(command, package_path, photos, tmp_path, capsys, make_package):
    places = {"PACKAGE": package_path, "PHOTOS": photos, "PHOTO": photos / "00.png", "OUT": tmp_path / "out"}
    if "CELLS" in command:
        places["CELLS"] = make_package(tmp_path / "cells.nemu", cells=True)
        places["NORMAL"], places["BANK"] = tmp_path / "normal", tmp_path / "line.bank"
        for i in range(8):
            image = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            save_png(places["NORMAL"] / f"{i}.png", image)
        assert (
            main(["bank", *(str(places[w]) for w in ("CELLS", "NORMAL")), "--out", str(places["BANK"])]) == 0
        )
        capsys.readouterr()
    words = [
        re.sub("PACKAGE|CELLS|NORMAL|BANK|PHOTOS?|OUT", lambda m: str(places[m[0]]), word) for word in command
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: ")
    assert main([*words, "--json", "--quiet"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert main([*words, "--quiet"]) == 0
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
    def missing(*_):
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(nemu.importlib, "import_module", missing)
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
