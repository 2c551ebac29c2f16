"""Which target a machine gets if none is named, and what the bar says while it builds."""

from __future__ import annotations

import dataclasses
import importlib.util
import threading

import pytest

from export import targets
from export.engine.builder import _check_capability, scratch_limit
from export.engine.monitor import Progress, interruptible
from runtime.backends import cuda
from runtime.errors import BackendUnavailable, InputError

ORIN = cuda.DeviceInfo(index=0, name="Orin", compute_capability="8.7", memory_bytes=8 << 30, integrated=True)


@pytest.fixture
def machine(monkeypatch):
    """A machine with these libraries, and a GPU or none."""

    def make(*libraries: str, gpu: cuda.DeviceInfo | None) -> None:
        def device(index: int = 0) -> cuda.DeviceInfo:
            if gpu is None:
                raise BackendUnavailable("no driver", expected="one", cure="install it")
            return gpu

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in libraries or None)
        monkeypatch.setattr(cuda, "device", device)
        monkeypatch.setattr(targets, "version", lambda flavour: "10.3.0")

    return make


def test_a_jetson_builds_with_its_own_tensorrt(machine):
    machine("tensorrt", gpu=ORIN)
    chosen = targets.default()
    assert (chosen.flavour, chosen.tensorrt) == ("tensorrt", (10, 3))
    assert chosen.gpus == chosen.engines == ("8.7",)


@pytest.mark.parametrize(
    ("libraries", "gpu", "name"),
    [
        (("tensorrt", "tensorrt_rtx"), ORIN, "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), None, "rtx"),
        (("tensorrt_rtx",), ORIN, "rtx"),
        (("tensorrt_rtx",), None, "rtx"),
        (("tensorrt_rtx_bindings",), None, "rtx"),
        (("tensorrt_bindings", "tensorrt_rtx"), ORIN, "tensorrt"),
    ],
)
def test_with_both_the_gpu_decides(machine, libraries, gpu, name):
    machine(*libraries, gpu=gpu)
    assert targets.default().name == name


def test_missing_library_or_driver_is_reported(machine):
    machine(gpu=ORIN)
    with pytest.raises(BackendUnavailable, match="neither tensorrt nor tensorrt_rtx"):
        targets.default()
    machine("tensorrt", gpu=None)
    with pytest.raises(BackendUnavailable, match="no driver"):
        targets.default()


def test_classic_tensorrt_builds_for_its_own_gpu_only():
    with pytest.raises(InputError, match="on the device itself"):
        _check_capability("tensorrt", "8.9", "fp16", ORIN)
    _check_capability("tensorrt", "8.7", "bf16", ORIN)


def test_bar_shows_elapsed_and_remaining_time(capsys):
    with Progress(show=True, cancelled=threading.Event()) as bar:
        bar.start("build", None, 4)
        bar.step("build")
    said = capsys.readouterr().err
    assert " 25%" in said
    assert "gone, about " in said
    assert "? left" not in said.rpartition("\r")[2]


def test_the_bar_moves_while_a_step_takes_long():
    """The work ends only once it was ticked."""
    ticked = threading.Event()
    assert interruptible(lambda: ticked.wait(30), threading.Event(), ticked.set)


def test_scratch_memory_is_limited_on_shared_memory():
    card = dataclasses.replace(ORIN, integrated=False)
    assert scratch_limit(None, ORIN) == 2 << 30
    assert scratch_limit(1 << 20, ORIN) == 1 << 20
    assert scratch_limit(None, card) is scratch_limit(None, None) is None
