"""nemu bench: the timed calls, and the clocks that it reports."""

from __future__ import annotations

import json

import pytest

from runtime import Explainer
from runtime.backends.fake import FakeBackend
from runtime.cli import bench
from tests.runtime.run import run


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
    command = ("bench", package_path, "--seconds", "0")
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "onnxruntime" in printed.splitlines()[0]
    assert run(*command, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["precision"] == "fp32"
    assert len(answer["rows"]) >= 2


@pytest.mark.parametrize(
    ("governor", "low", "warned"), [("performance", "1", 0), ("powersave", "1", 1), ("powersave", "9", 0)]
)
def test_unlocked_cpu_clock_gives_a_warning(tmp_path, monkeypatch, governor, low, warned):
    monkeypatch.setenv("PATH", "")
    assert "not known" in bench.conditions(tmp_path).clocks
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    files = {"scaling_governor": governor, "scaling_min_freq": low, "cpuinfo_max_freq": "9"}
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    found = bench.conditions(tmp_path)
    assert governor in found.clocks
    assert len(found.warnings) == warned


def test_gpu_reports_its_clocks(install):
    query = "--query-gpu=name,clocks.sm,clocks.max.sm,power.draw,power.limit"
    install("nvidia-smi", "NVIDIA L4, 300 MHz, 2040 MHz, 12.5 W, 72 W", query)
    found = bench.conditions()
    assert found.clocks == "NVIDIA L4: 300 MHz of 2040 MHz, 12.5 W of 72 W"
    assert "nvidia-smi -lgc" in found.warnings[0]
