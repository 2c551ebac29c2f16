"""The CUDA layer: without a driver for real, and over a stand-in for the bindings."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from fake_nvidia import FakeCudart

from runtime.backends import cuda
from runtime.errors import BackendError, BackendUnavailable

needs_bindings = pytest.mark.skipif(not find_spec("cuda"), reason="cuda-bindings is not installed")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    fake = FakeCudart()
    monkeypatch.setattr(cuda, "_cudart", lambda: fake)
    return fake


def _has_driver() -> bool:
    if not find_spec("cuda"):
        return False
    try:
        cuda.driver()
    except BackendUnavailable:
        return False
    return True


@needs_bindings
@pytest.mark.skipif(_has_driver(), reason="this machine has a driver")
def test_a_machine_without_a_driver_says_so() -> None:
    for probe in (cuda.driver, cuda.device):
        with pytest.raises(BackendUnavailable, match="NVIDIA driver") as error:
            probe()
        assert "cudaError" in error.value.came
        assert "r580" in error.value.cure
    with pytest.raises(BackendError, match="cudaMalloc failed: cudaErrorInsufficientDriver: CUDA driver"):
        cuda.DeviceBuffer(8)


@needs_bindings
def test_the_stand_in_has_no_name_of_its_own() -> None:
    from cuda.bindings import runtime

    names = [name for name in vars(FakeCudart) if not name.startswith("_")]
    assert len(names) > 15
    assert [name for name in names if not hasattr(runtime, name)] == []
    kinds = [kind.name for kind in FakeCudart.cudaMemcpyKind]
    assert [kind for kind in kinds if not hasattr(runtime.cudaMemcpyKind, kind)] == []
    properties = FakeCudart().cudaGetDeviceProperties(0)[1]
    assert [name for name in vars(properties) if not hasattr(runtime.cudaDeviceProp, name)] == []


def test_missing_bindings_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=r"pip install .cuda-bindings"):
        cuda.driver()


def test_driver_and_device(fake: FakeCudart) -> None:
    assert cuda.driver() == cuda.DriverInfo(cuda="13.2", devices=1)
    info = cuda.device(0)
    assert (info.name, info.compute_capability, info.integrated) == ("Fake GPU", "8.9", False)
    assert info.memory_bytes == 1 << 34
    for index in (1, -1):
        with pytest.raises(BackendUnavailable, match="0 to 0: 1 device"):
            cuda.device(index)


def test_a_driver_that_is_too_old_is_not_called_missing(fake: FakeCudart) -> None:
    fake.fail["cudaGetDeviceCount"] = 35
    with pytest.raises(BackendUnavailable, match=r"driver is for CUDA 13\.2 \(cudaError35"):
        cuda.driver()


def test_copies_are_done_after_synchronize(fake: FakeCudart) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with (
        cuda.Stream() as stream,
        cuda.PinnedArray((3, 4), np.float32) as there,
        cuda.PinnedArray((3, 4), np.float32) as back,
        cuda.DeviceBuffer(values.nbytes) as buffer,
    ):
        there.array[:] = values
        cuda.to_device(buffer, there.array, stream)
        cuda.to_host(back.array[:2], buffer, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back.array, [*values[:2], np.zeros(4)])
        buffer.fill(0xFF, stream)
        cuda.to_host(back.array, buffer, stream)
        stream.synchronize()
        assert np.isnan(back.array).all()
    assert not fake.memory
    assert not fake.streams
    assert fake.events == ["cudaFree", "cudaFreeHost", "cudaFreeHost", "cudaStreamDestroy"]


def test_what_does_not_fit_is_refused(fake: FakeCudart) -> None:
    with cuda.Stream() as stream, cuda.DeviceBuffer(8) as buffer:
        with pytest.raises(BackendError, match="at most 8 bytes"):
            cuda.to_device(buffer, np.zeros(9, np.uint8), stream)
        with pytest.raises(BackendError, match="C-contiguous"):
            cuda.to_host(np.zeros((4, 4), np.uint8)[:, :2], buffer, stream)


def test_closing_twice_and_using_what_is_closed(fake: FakeCudart) -> None:
    buffer, pinned = cuda.DeviceBuffer(8), cuda.PinnedArray((2,), np.uint8)
    for resource in (buffer, pinned, buffer, pinned):
        resource.close()
    assert fake.events == ["cudaFree", "cudaFreeHost"]
    with pytest.raises(BackendError, match="DeviceBuffer was used after close"):
        _ = buffer.pointer
    with pytest.raises(BackendError, match="PinnedArray was used after close"):
        _ = pinned.array


def test_failures_carry_cudas_own_name(fake: FakeCudart) -> None:
    fake.fail.update(cudaMalloc=2, cudaStreamSynchronize=700)
    with pytest.raises(BackendError, match="cudaMalloc failed: cudaError2: as the test wanted"):
        cuda.DeviceBuffer(8)
    with (
        cuda.Stream() as stream,
        pytest.raises(BackendError, match="cudaStreamSynchronize failed: cudaError700"),
    ):
        stream.synchronize()
