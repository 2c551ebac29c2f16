"""The report on TensorRT-RTX engines on a GPU that the library does not list."""

from __future__ import annotations

import dataclasses
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
from runtime.errors import EngineMismatch
from runtime.package.folder import Package
from runtime.package.reference import Reference
from tests.benchmarks.gpu.pretended_gpu import INPUT, pretended_bench
from tests.runtime import fake_tensorrt as fakes

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8) // np.arange(1, 9)[:, None]
EXPECTED = IMAGES.mean((1, 2), dtype=np.float32), IMAGES[..., 0].astype(np.float32) / 255


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pretended_bench(monkeypatch, COMPUTE_CAPABILITY_MAJOR=9, COMPUTE_CAPABILITY_MINOR=0) as bench:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fakes.fake_tensorrt(bench.kernels.gpu, rtx=True))
        yield bench


def tried(
    bench: Bench, plan: bytes, report: dict[str, Any], toward: np.ndarray | None = None, **changes: Any
) -> list[str]:
    """Fill a report on an engine of TensorRT-RTX; the stages at which it was saved."""
    record = dataclasses.replace(
        gpu_bench._record(bench.gpu, 4, flavour="rtx"),
        version="10.3.0.30",
        compute_capability="portable",
        **changes,
    )
    engine = SimpleNamespace(record=record, read=lambda: plan, path=Path("toy.engine"))
    package: Any = Package(Path("toy.nemu"), SimpleNamespace(input=INPUT, files={}), "0" * 64)
    saved: list[str] = []
    reference = Reference(IMAGES.astype(np.uint8), *EXPECTED, toward, EXPECTED[1])
    writes: Any = SimpleNamespace(save=lambda: saved.append(report.get("stage", "")))
    gpu_parity.try_engine(package, engine, reference, report, writes)
    return saved


def test_an_engine_that_is_valid_runs(hopper: Bench) -> None:
    report: dict[str, Any] = {}
    saved = tried(hopper, fakes.RECORDABLE, report)
    assert saved.index("opening") < saved.index("running")
    assert "does not list Fake GPU (9.0)" in report["why"]
    assert _verdict(report).startswith("VALID, runs with a CUDA graph, within the gate, opened in ")


def test_an_engine_that_cannot_be_captured_says_so(hopper: Bench) -> None:
    report: dict[str, Any] = {}
    tried(hopper, b"a plan", report)
    assert "no graph: no CUDA graph for batches of 1: TensorRT-RTX says that this engine" in _verdict(report)


@pytest.mark.parametrize(
    ("fails", "error", "answer"),
    [
        ("get_engine_validity", "TensorRT-RTX 1.* does not support", "INVALID"),
        ("execute_async_v3", "there it does not run", "VALID"),
    ],
)
def test_a_failing_engine_says_at_which_stage(hopper: Bench, fails: str, error: str, answer: str) -> None:
    hopper.kernels.gpu.fail[fails] = 1
    report: dict[str, Any] = {}
    with pytest.raises(EngineMismatch, match=error):
        tried(hopper, fakes.RECORDABLE, report)
    assert report["stage"] == "opening"
    assert report["validity"]["answer"] == answer


@pytest.mark.parametrize(("size", "verdict"), [(1.0, "within the gate"), (0.5, "beyond the gate")])
def test_an_engine_with_targets_is_given_targets(hopper: Bench, size: float, verdict: str) -> None:
    """The fake engine multiplies the mask by the mean of the target."""
    report: dict[str, Any] = {}
    toward = np.full((5, 3), size, np.float32)
    tried(hopper, fakes.TARGETS, report, toward, inputs=("image", "toward"))
    assert verdict in _verdict(report)
    assert report["parity"].keys() == {"batch 1", "batch 4"}
