"""nemu bench: the timed calls, and the clocks that it reports."""

from __future__ import annotations

import json

import pytest

from runtime import Explainer
from runtime.__main__ import main
from runtime.cli import bench
from tests.runtime.fake_backend import FakeBackend


def test_bench_times_batches_and_a_jpeg(tiny, outputs):
    seen = []
    backend = FakeBackend(lambda images: (seen.append(images.shape), outputs(images))[1], max_batch=8)
    with Explainer(tiny, backend=backend) as explainer:
        rows = bench.bench(explainer, seconds=0)
    assert [(r.what.split()[0], r.batch) for r in rows] == [("embedding", 1), ("embedding", 8), ("from", 1)]
    assert {shape[0] for shape in seen} == {1, 8}
    for row in rows:
        assert row.n == 20
        assert 0 < row.median_ms <= row.p95_ms <= row.p99_ms
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.median_ms)


def test_bench_command(package_path, capsys):
    command = ["bench", str(package_path), "--seconds", "0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "onnxruntime" in printed.splitlines()[0]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["precision"] == "fp32"
    assert len(answer["rows"]) >= 2


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(bench.shutil, "which", lambda tool: None)


@pytest.mark.parametrize(
    ("governor", "low", "warned"), [("performance", "1", 0), ("powersave", "1", 1), ("powersave", "9", 0)]
)
def test_unlocked_cpu_clock_gives_a_warning(tmp_path, no_gpu, governor, low, warned):
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    for name, value in {
        "scaling_governor": governor,
        "scaling_min_freq": low,
        "cpuinfo_max_freq": "9",
    }.items():
        (folder / name).write_text(f"{value}\n")
    found = bench.conditions(tmp_path)
    assert governor in found.clocks
    assert len(found.warnings) == warned


def test_unknown_clocks_are_reported(tmp_path, no_gpu):
    assert "not known" in bench.conditions(tmp_path).clocks


def test_jetson_reports_unlocked_clocks(tmp_path, no_gpu):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n"
    )
    policy = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    policy.mkdir(parents=True)
    (policy / "scaling_min_freq").write_text("1\n")
    (policy / "cpuinfo_max_freq").write_text("9\n")
    found = bench.conditions(tmp_path)
    assert found.clocks == "CPU free"
    assert found.warnings == ("the CPU clock is not locked: sudo jetson_clocks",)


def test_gpu_reports_its_clocks(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 300 MHz, 2040 MHz, 12.5 W, 72 W'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bench.conditions(tmp_path)
    assert found.clocks == "NVIDIA L4: 300 MHz of 2040 MHz, 12.5 W of 72 W"
    assert "nvidia-smi -lgc" in found.warnings[0]
