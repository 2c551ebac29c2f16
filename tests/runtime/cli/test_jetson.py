"""doctor on a Jetson: boards made of files, since none was at hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from runtime.cli import bench, doctor, jetson
from runtime.cli.jetson import CARRIED, RELEASES, Environment, highest_mode
from runtime.cli.jetson_checks import FIX, NOTE, OK, findings, needed
from runtime.package.folder import Package

ORIN_NANO = """
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
GOOD = Environment(python="3.10", virtual=False, tensorrt="10.3.0", cuda_bindings="12.9.10", pycuda=None)


def board(root: Path, *, release: str = "R36 (release), REVISION: 4.3", free: int = 6_000_000) -> Path:
    """An Orin Nano on JetPack 6.2: GPU clock held, CPU clock free."""
    files = {
        "etc/nv_tegra_release": f"# {release}, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "etc/nvpmodel.conf": ORIN_NANO,
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": f"MemTotal:  7700000 kB\nMemFree: 100 kB\nMemAvailable:   {free} kB\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
        "sys/class/devfreq/15340000.vic/min_freq": "1\n",
        "sys/class/devfreq/15340000.vic/max_freq": "2\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "115200\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
        "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture
def nvpmodel(install):
    """`nvpmodel(mode)`: the tool answers that this is the power mode."""
    return lambda mode: install("nvpmodel", f"NV Power Mode: {mode}\n0", "-q")


def asked(root: Path, here: Environment = GOOD, **options) -> list:
    return findings(jetson.read(root), here, root=root, **options)


def about(found: list, word: str):
    (finding,) = [f for f in found if word in f.text]
    return finding


def test_board_is_read_from_its_files(tmp_path, nvpmodel):
    nvpmodel("15W")
    assert jetson.read(tmp_path) is None  # another machine
    found = jetson.read(board(tmp_path))
    assert found == jetson.Jetson(
        model="NVIDIA Jetson Orin Nano Developer Kit",
        l4t="36.4.3",
        jetpack="6.2",
        carried=CARRIED["6.2"],
        memory_total=7_700_000 * 1024,
        memory_free=6_000_000 * 1024,
        power_mode="15W",
        power_modes={0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"},
        clocks={"CPU": False, "GPU": True},
    )


@pytest.mark.parametrize(
    ("release", "jetpack", "tensorrt", "level", "said"),
    [
        ("R35 (release), REVISION: 4.1", "5.1", "8.5.2", FIX, "upgrade to JetPack 6.1"),
        ("R35 (release), REVISION: 6.4", "5.1", "8.5.2", FIX, "upgrade to JetPack 6.1"),
        ("R36 (release), REVISION: 3.0", "6.0", "8.6.2", FIX, "upgrade to JetPack 6.1"),
        ("R36 (release), REVISION: 4.0", "6.1", "10.3.0.30", OK, "CUDA 12.6"),
        ("R36 (release), REVISION: 5.0", "6.2.2", "10.3.0.30", OK, "CUDA 12.6"),
        ("R38 (release), REVISION: 4.0", "7.1", "10.13.3.9", OK, "CUDA 13.0"),
        ("R39 (release), REVISION: 2.0", "7.2", "10.16.2.10", OK, "CUDA 13.2"),
        ("R40 (release), REVISION: 1.0", None, None, NOTE, "not in this version's table"),
        ("something else", None, None, NOTE, "not in this version's table"),
    ],
)
def test_release_gives_jetpack_and_tensorrt(tmp_path, release, jetpack, tensorrt, level, said):
    assert {name[:3] for name in RELEASES.values()} == set(CARRIED)
    root = board(tmp_path, release=release)
    found, first = jetson.read(root), asked(root)[0]
    assert (found.jetpack, found.carried and found.carried.tensorrt) == (jetpack, tensorrt)
    assert first.level == level
    assert said in f"{first.text} {first.cure}"


def test_good_environment_needs_no_fix(tmp_path, nvpmodel):
    nvpmodel("MAXN_SUPER")
    found = asked(board(tmp_path))
    assert [f.level for f in found if f.level != OK] == [NOTE]  # the CPU's clock
    assert about(found, "clocks").cure == "to measure: sudo jetson_clocks"
    assert "CPU" in about(found, "clocks").text
    assert "GPU" not in about(found, "clocks").text
    measured = bench.conditions(tmp_path)
    assert (measured.power_mode, measured.clocks) == ("MAXN_SUPER", "CPU free, GPU held")
    assert measured.warnings == ("the CPU clock is not locked: sudo jetson_clocks",)


@pytest.mark.parametrize(
    ("change", "level", "word", "cure"),
    [
        ({"python": "3.12"}, FIX, "built for Python 3.10", "/usr/bin/python3.10 -m venv --system-site"),
        ({"tensorrt": None, "virtual": True}, FIX, "does not see it", "--system-site-packages"),
        ({"tensorrt": "11.4.0.106"}, FIX, "hides JetPack's own 10.3.0.30", "pip uninstall tensorrt"),
        ({"cuda_bindings": "13.4.4"}, FIX, "another CUDA", '"cuda-bindings>=12,<13"'),
        ({"cuda_bindings": None}, FIX, "neither cuda-bindings nor pycuda", '"cuda-bindings>=12,<13"'),
        ({"cuda_bindings": None, "pycuda": "2026.1"}, NOTE, "without CUDA graphs", "cuda-bindings"),
    ],
)
def test_wrong_environment_is_reported(tmp_path, change, level, word, cure):
    root, here = board(tmp_path), dataclasses.replace(GOOD, **change)
    finding = about(asked(root, here), word)
    assert finding.level == level
    assert cure in finding.cure
    shutil.rmtree(root / "usr")
    if here.tensorrt is None:
        assert "python3-libnvinfer" in about(asked(root, here), "tensorrt is not installed").cure


@pytest.mark.parametrize(
    ("free", "level"), [(6_000_000, OK), (1_000_000, NOTE), (500_000, FIX)]
)  # kB, against 1.4 GB to build and 0.7 GB to run
def test_memory_is_compared_with_the_estimate(tmp_path, free, level):
    assert needed(100_000_000) == (1_400_000_000, 700_000_000)
    finding = about(asked(board(tmp_path, free=free), weights=100_000_000), "ESTIMATE")
    assert finding.level == level
    assert "1.4 GB to build" in finding.text


def test_highest_power_mode_is_named(tmp_path, nvpmodel, monkeypatch):
    nvpmodel("25W")
    finding = about(asked(board(tmp_path)), "power mode")
    assert finding.level == NOTE
    assert finding.cure == "to measure: sudo nvpmodel -m 2 && sudo jetson_clocks"
    monkeypatch.setenv("PATH", "")
    assert about(asked(tmp_path), "power mode could not be read").level == NOTE


def test_highest_mode_by_name_and_watts():
    assert highest_mode({0: "MAXN", 1: "15W", 2: "30W"}) == 0
    assert highest_mode({0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}) == 2
    assert highest_mode({0: "MAXN", 4: "MAXN_SUPER"}) == 4
    assert highest_mode({0: "7W", 1: "120W", 2: "40W"}) == 1
    assert highest_mode({}) is None


def test_report_ends_with_first_fix_or_build(tmp_path, package_path, monkeypatch):
    root = board(tmp_path / "root")
    monkeypatch.setattr(jetson, "environment", lambda: dataclasses.replace(GOOD, cuda_bindings=None))
    facts = doctor.report(Package.open(package_path), root=root)
    said = doctor.text(facts).splitlines()
    assert said[-1] == 'next: pip install "cuda-bindings>=12,<13"'
    assert "NVIDIA Jetson Orin Nano Developer Kit" in said[1]
    assert any("ESTIMATE" in line for line in said)
    json.dumps(facts)
    monkeypatch.setattr(jetson, "environment", lambda: GOOD)
    monkeypatch.setattr(doctor, "installed", lambda *modules: True)
    facts = doctor.report(Package.open(package_path), root=root)
    assert facts["next"] == f"nemu build --package {package_path}"


def test_libraries_and_next_step_on_other_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda module: module == "tensorrt_rtx_bindings")
    found = doctor.report(root=tmp_path)["libraries"]
    assert [library["module"] for library in found if library["installed"]] == ["tensorrt_rtx"]
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: None)
    monkeypatch.setattr(doctor, "installed", lambda *modules: True)
    assert doctor.report(root=tmp_path)["next"].startswith("nemu explain")
    monkeypatch.setattr(doctor, "installed", lambda module: module != "PIL")
    assert doctor.report(root=tmp_path)["next"] == "pip install Pillow"
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "NVIDIA L4, 570.1, 8.9")
    monkeypatch.setattr(doctor, "installed", lambda module: not module.startswith("tensorrt"))
    assert "tensorrt-rtx" in doctor.report(root=tmp_path)["next"]
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "NVIDIA H200, 570.1, 9.0; NVIDIA L4, 570.1, 8.9")
    report = doctor.report(root=tmp_path)
    assert 'pip install "tensorrt>=' in report["next"]
    said = "TensorRT-RTX does not list NVIDIA H200 (9.0) among its GPUs: build its engines with tensorrt"
    assert said in doctor.text(report)
