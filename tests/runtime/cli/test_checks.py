"""The commands info, verify and doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np

from runtime.cli import doctor
from tests.runtime.run import run

ROOT = Path(__file__).parents[3]


def test_info_describes_the_package(package_path, monkeypatch, capsys):
    assert run("info", package_path) == 0
    printed = capsys.readouterr().out
    for word in ("tiny-mean", "24x32", "letterbox", "onnxruntime", "all 4 are unchanged"):
        assert word in printed
    assert run("info", package_path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"]["input"]["resize"] == "letterbox"
    assert facts["engines"] == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("info", package_path) == 0
    assert "pip install onnxruntime" in capsys.readouterr().out


def test_verify_refuses_changed_files_and_outputs(package_path, make_package, tmp_path, capsys):
    assert run("verify", package_path) == 0
    assert "reference outputs" in capsys.readouterr().out
    assert run("verify", package_path, "--json", "--backend", "onnxruntime") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parity"]["n"] == 5
    assert answer["parity"]["control_failed"] is True
    assert answer["parity"]["embedding_error"] < 1e-5
    assert run("verify", make_package(tmp_path / "off.nemu", error=0.01)) == 3
    assert "embedding error" in capsys.readouterr().err
    with (package_path / "reference.npz").open("ab") as file:
        file.write(b"x")
    assert run("verify", package_path) == 1
    assert "reference.npz" in capsys.readouterr().err


def test_doctor_names_missing_libraries_and_install_commands(monkeypatch, capsys):
    for name in ("timm", "cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "pip install timm" in printed
    assert 'pip install "cuda-bindings>=12.6"' in printed
    assert run("doctor", "--json") == 0
    states = {x["module"]: x for x in json.loads(capsys.readouterr().out)["libraries"]}
    assert states["numpy"]["installed"] is True
    assert states["numpy"]["version"] == np.__version__
    assert states["timm"]["installed"] is False


def test_doctor_imports_no_optional_library():
    code = (
        "import sys; from runtime.cli import doctor; doctor.report(); "
        "print([m for m in 'torch onnxruntime tensorrt_rtx onnx timm PIL'.split() if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_doctor_reads_the_driver_from_nvidia_smi(install):
    install("nvidia-smi", "NVIDIA L4, 570.1, 8.9", "--query-gpu=name,driver_version,compute_cap")
    assert doctor.nvidia_driver() == "NVIDIA L4, 570.1, 8.9"


def test_doctor_says_that_nvidia_smi_hangs(monkeypatch):
    hangs = Mock(side_effect=subprocess.TimeoutExpired("nvidia-smi", 20))
    monkeypatch.setattr(subprocess, "run", hangs)
    assert "nvidia-smi does not answer" in doctor.nvidia_driver()
