"""The report on TensorRT-RTX engines on a GPU that the library does not list."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import bench as gpu_bench
from benchmarks.gpu import parity as gpu_parity
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.summary import _verdict
from runtime.errors import BackendError
from runtime.package.folder import Package
from tests.benchmarks.gpu.pretended_gpu import INPUT, pretended_bench

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8) // np.arange(1, 9)[:, None]
EXPECTED = IMAGES.mean((1, 2), dtype=np.float32), IMAGES[..., 0].astype(np.float32) / 255


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pretended_bench(monkeypatch, COMPUTE_CAPABILITY_MAJOR=9, COMPUTE_CAPABILITY_MINOR=0) as bench:
        fake = importlib.import_module("tests.runtime.fake_tensorrt")
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake.fake_tensorrt(bench.kernels.gpu, rtx=True))
        yield bench


def tried(
    bench: Bench, plan: str, report: dict[str, Any], toward: np.ndarray | None = None, **changes: Any
) -> list[str]:
    """Fill a report on an engine of TensorRT-RTX; the stages at which it was saved."""
    record = dataclasses.replace(
        gpu_bench._record(bench.gpu, 4, flavour="rtx"),
        version="10.3.0.30",
        compute_capability="portable",
        **changes,
    )
    content = getattr(importlib.import_module("tests.runtime.fake_tensorrt"), plan, b"a plan")
    engine = SimpleNamespace(record=record, read=lambda: content, path=Path("toy.engine"))
    package: Any = Package(Path("toy.nemu"), SimpleNamespace(input=INPUT, files={}), "0" * 64)
    saved: list[str] = []
    images = IMAGES.astype(np.uint8)
    task = gpu_parity.Task(images, toward, EXPECTED)
    gpu_parity._try(package, engine, task, report, lambda: saved.append(report.get("stage", "")))
    return saved


def test_an_engine_that_is_valid_runs(hopper: Bench) -> None:
    report: dict[str, Any] = {}
    saved = tried(hopper, "RECORDABLE", report)
    assert saved.index("opening") < saved.index("running")
    assert report["refused"] == ""
    assert "does not list Fake GPU (9.0)" in report["why"]
    assert _verdict(report) == "VALID, runs with a CUDA graph, within the gate"


def test_an_engine_that_cannot_be_captured_says_so(hopper: Bench) -> None:
    report: dict[str, Any] = {}
    tried(hopper, "", report)
    assert "no graph: no CUDA graph for batches of 1: TensorRT-RTX says that this engine" in _verdict(report)


def test_a_refused_engine_is_tried_all_the_same(hopper: Bench) -> None:
    hopper.kernels.gpu.fail["get_engine_validity"] = 1
    report: dict[str, Any] = {}
    tried(hopper, "RECORDABLE", report)
    verdict = _verdict(report)
    assert verdict.startswith("INVALID UNSUPPORTED_CC, refused by the runtime: toy.engine: TensorRT-RTX 1")
    assert verdict.endswith("runs with a CUDA graph, within the gate")


def test_a_failing_engine_says_at_which_stage(hopper: Bench) -> None:
    hopper.kernels.gpu.fail["execute_async_v3"] = 1
    report: dict[str, Any] = {}
    with pytest.raises(BackendError, match="execute_async_v3 failed"):
        tried(hopper, "RECORDABLE", report)
    assert report["stage"] == "opening"
    assert "there it does not run" in report["refused"]


@pytest.mark.parametrize(("size", "verdict"), [(1.0, "within the gate"), (0.5, "beyond the gate")])
def test_an_engine_with_targets_is_given_targets(hopper: Bench, size: float, verdict: str) -> None:
    """The fake engine multiplies the mask by the mean of the target."""
    report: dict[str, Any] = {}
    toward = np.full((5, 3), size, np.float32)
    tried(hopper, "TARGETS", report, toward, inputs=("image", "toward"))
    assert verdict in _verdict(report)
    assert report["parity"].keys() == {"batch 1", "batch 4"}
