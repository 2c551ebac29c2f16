"""The checks of our CUDA code over the fake GPU: they pass there, and each can fail."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import cuda as gpu_cuda
from benchmarks.gpu import cuda_checks as gpu_cuda_checks
from benchmarks.gpu import device_checks as gpu_device_checks
from benchmarks.gpu import stand_in as gpu_stand_in
from benchmarks.gpu.bench import Bench, Wrong
from benchmarks.gpu.kernels import compiled, expected
from benchmarks.gpu.report import Report
from runtime.backends.cuda.memory import BufferPool
from runtime.device_explanation import DeviceExplanation
from runtime.errors import BackendError
from tests.benchmarks.gpu.pretended_gpu import PretendedKernels, pretended_bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with pretended_bench(monkeypatch) as bench:
        yield bench


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "cuda.json", budget=60, seconds=1, gpu=True)


def test_every_check_passes_or_says_why_not(bench: Bench, report: Report, tmp_path: Path) -> None:
    gpu_cuda.run(bench, report, gpu_cuda_checks.CHECKS)
    content = json.loads((tmp_path / "cuda.json").read_text())
    rows = {row["check"]: row for row in content["checks"]}
    assert len(rows) == len(gpu_cuda_checks.CHECKS)
    assert "running" not in content
    not_made = {name: row["detail"] for name, row in rows.items() if row["passed"] is None}
    assert set(not_made) == {
        "two submitted runs overlap",  # nothing is slow here
        "torch tensors and streams",
        "cupy arrays and streams",
    }
    added = rows.pop("what the runtime adds")
    assert added["run_adds_us"] == pytest.approx(added["run_us"] - added["bare graph_us"])
    assert [row for row in rows.values() if row["passed"] is False] == []
    assert "replay" in rows["a stale replay is refused"]["detail"]
    assert "the mask (64 of 64 values)" in rows["what is not finite is refused"]["detail"]


def test_after_a_failed_check_the_next_is_made(bench: Bench, report: Report) -> None:
    def fails(bench: Bench) -> dict[str, Any]:
        raise BackendError("it broke", expected="success", cure="none")

    def goes_on(bench: Bench) -> dict[str, Any]:
        return {"detail": "made"}

    gpu_cuda.run(bench, report, (fails, goes_on))
    first, second = report.content["checks"]
    assert (first["check"], first["passed"]) == ("fails", False)
    assert first["detail"].startswith("BackendError: it broke")
    assert (second["passed"], second["detail"]) == (True, "made")


@pytest.mark.parametrize(
    ("check", "owner", "name", "fault", "said"),
    [
        (  # the poison stays
            gpu_cuda_checks.one_backend_moves_between_threads,
            PretendedKernels, "infer", lambda *_: None, "100% of it NaN",
        ),
        (gpu_device_checks.run_device_keeps_the_order_of_streams, None, "order", lambda *_: None, "turn 0"),
        (
            gpu_device_checks.memory_of_outputs_is_used_again,
            BufferPool, "take_back", lambda self, buffer: buffer.close(), "dropping the outputs called",
        ),
        (
            gpu_device_checks.what_is_not_finite_is_refused,
            DeviceExplanation, "check", DeviceExplanation.synchronize, "NaN was accepted",
        ),
        (
            gpu_device_checks.an_event_is_done_when_its_work_is,
            None, "event_done", lambda *_: True, "True, True, True",
        ),
    ],
)  # fmt: skip
def test_a_check_finds_its_fault(bench, monkeypatch, check, owner, name, fault, said) -> None:
    """`owner` is the class that gets the fault; None: the bench's CUDA layer."""
    monkeypatch.setattr(owner or type(bench.cuda), name, fault)
    with pytest.raises(Wrong, match=said):
        check(bench)


def test_a_graph_that_is_not_refused_is_found(bench: Bench) -> None:
    with pytest.raises(Wrong, match="the graph was not refused"):
        gpu_cuda_checks._without_graph(bench, "", "replay")


@pytest.mark.parametrize(("half", "passed"), [(1 << 30, True), (1 << 29, False)])
def test_a_leak_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch, half: int, passed: bool) -> None:
    used = iter(({"host": 0}, {"host": half}, {"host": 1 << 30}))
    monkeypatch.setattr(bench, "used", lambda: next(used))
    assert gpu_cuda_checks.calls_leak_nothing(bench)["passed"] is passed


def test_the_soak_writes_its_figures_meanwhile(bench: Bench, report: Report, tmp_path: Path) -> None:
    gpu_cuda.soak(bench, report, seconds=0.3, every=0.1)
    found = json.loads((tmp_path / "cuda.json").read_text())["soak"]
    assert found["runs"] > 2
    assert found["wrong"] == []
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_without_a_gpu_the_step_is_skipped(tmp_path: Path) -> None:
    out = tmp_path / "cuda.json"
    code = f"""import sys
from benchmarks.gpu import cuda as gpu_cuda
assert gpu_cuda.main([{str(out)!r}]) == 0
assert not {{"torch", "onnx", "timm"}} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    if not content.get("checks"):
        assert "driver" in content["skipped"][0]["why"]


def test_the_stand_in_matches_the_fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of TensorRT that the runtime begins to make must be added to both."""
    fake = importlib.import_module("tests.runtime.fake_tensorrt")
    for ours, theirs in (
        (gpu_stand_in.Engine, fake.ICudaEngine),
        (gpu_stand_in.RtxEngine, fake.RtxEngine),
        (gpu_stand_in.Context, fake.IExecutionContext),
        (gpu_stand_in.RtxContext, fake.RtxContext),
        (gpu_stand_in.RuntimeConfig, fake.IRuntimeConfig),
    ):
        names = {name for name in vars(theirs) if not name.startswith("_")} - fake.OWN
        assert names <= set(dir(ours)), f"{ours.__name__} lacks {names - set(dir(ours))}"
    for rtx in (False, True):
        names = set(vars(fake.fake_tensorrt(None, rtx=rtx))) - {
            "EngineInvalidityDiagnostics"
        }  # no plan to judge
        assert names <= set(vars(gpu_stand_in.stand_in(None, most=1, rtx=rtx)))


def test_a_context_without_its_memory_does_not_run(bench: Bench) -> None:
    engine = gpu_stand_in.Engine(bench.kernels, most=2, spin=0, fault="")
    context = engine.create_execution_context("USER_MANAGED")
    assert context.set_input_shape("image", (2, 8, 8, 3))
    assert context.execute_async_v3(1) is False
    context.set_device_memory(256, gpu_stand_in.SCRATCH)
    assert context.execute_async_v3(1) is False, "enough for one image, not for two"


def test_numpy_and_kernel_agree_on_the_largest_image() -> None:
    images = np.full((1, 256, 256, 3), 255, np.uint8)
    embedding, mask = expected(images)
    assert embedding.dtype == mask.dtype == np.float32
    assert float(embedding[0, 0]) * 65536 == 256 * 256 / 8 * 7 * 255 < 2**24
    assert float(mask.max()) == 7 * 255 / 2048 < 1


@pytest.mark.skipif(not find_spec("cuda.bindings"), reason="cuda-bindings is not installed")
def test_the_kernels_compile() -> None:
    code, how = compiled("9.0")
    assert code.startswith(b"\x7fELF")
    assert "compiled for sm_90" in how
