"""The checks of our CUDA code over the fake GPU: they pass there, and each can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest

from benchmarks.gpu import cuda_checks as gpu_cuda_checks
from benchmarks.gpu import device_checks as gpu_device_checks
from benchmarks.gpu import stand_in as gpu_stand_in
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.kernels import compiled, expected
from runtime.backends.cuda.memory import BufferPool
from runtime.device_explanation import DeviceExplanation
from tests.benchmarks.gpu.pretended_gpu import PretendedKernels, pretended_bench
from tests.runtime import fake_tensorrt as fakes


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with pretended_bench(monkeypatch) as bench:
        yield bench


NOT_MADE = (  # nothing is slow here, and torch needs the real driver
    gpu_cuda_checks.two_submitted_runs_overlap,
    gpu_device_checks.torch_tensors_and_streams,
    gpu_device_checks.cupy_arrays_and_streams,
)
SAID = {
    gpu_cuda_checks.a_stale_replay_is_refused: "replay",
    gpu_device_checks.what_is_not_finite_is_refused: "the mask (64 of 64 values)",
}


@pytest.mark.parametrize("check", gpu_cuda_checks.CHECKS, ids=lambda check: check.__name__)
def test_a_check_passes_or_says_why_not(bench: Bench, check: Callable[[Bench], dict[str, Any]]) -> None:
    if check in NOT_MADE:
        with pytest.raises(SkipTest):
            check(bench)
        return
    facts = check(bench)
    if check is gpu_cuda_checks.what_the_runtime_adds:
        assert facts["run_adds_us"] == pytest.approx(facts["run_us"] - facts["bare graph_us"])
    else:
        assert facts.get("passed", True)
        assert SAID.get(check, "") in facts.get("detail", "")


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
    with pytest.raises(AssertionError, match=said):
        check(bench)


def test_a_graph_that_is_not_refused_is_found(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="the graph was not refused"):
        gpu_cuda_checks._without_graph(bench, "", "replay")


@pytest.mark.parametrize(("half", "passed"), [(1 << 30, True), (1 << 29, False)])
def test_a_leak_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch, half: int, passed: bool) -> None:
    used = iter(({"host": 0}, {"host": half}, {"host": 1 << 30}))
    monkeypatch.setattr(gpu_cuda_checks, "used", lambda index: next(used))
    assert gpu_cuda_checks.calls_leak_nothing(bench)["passed"] is passed


def test_the_stand_in_matches_the_fake_tensorrt() -> None:
    """A call of TensorRT that the runtime begins to make must be added to both."""
    for ours, theirs in (
        (gpu_stand_in.Engine, fakes.ICudaEngine),
        (gpu_stand_in.RtxEngine, fakes.RtxEngine),
        (gpu_stand_in.Context, fakes.IExecutionContext),
        (gpu_stand_in.RtxContext, fakes.RtxContext),
        (gpu_stand_in.RuntimeConfig, fakes.IRuntimeConfig),
    ):
        names = {name for name in vars(theirs) if not name.startswith("_")} - fakes.OWN
        assert names <= set(dir(ours)), f"{ours.__name__} lacks {names - set(dir(ours))}"
    for rtx in (False, True):
        names = set(vars(fakes.fake_tensorrt(None, rtx=rtx))) - {"EngineInvalidityDiagnostics"}
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
    assert compiled("9.0").startswith(b"\x7fELF")
