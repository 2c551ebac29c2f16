"""What TensorRT-RTX has compiled is kept, and a cache that is damaged or cannot be written stops nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import Gpu
from fake_tensorrt import COMPILED, fake_tensorrt

from runtime.backends import tensorrt
from runtime.backends.tensorrt_backend import TensorRTBackend
from runtime.package import Package

Open = Callable[[], TensorRTBackend]


@pytest.fixture
def opened(toy: Package, add: Callable, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens an RTX engine; the library is pretended."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(gpu, version="1.7.1.116", rtx=True))
    add(toy, "toy", flavour="rtx", version="1.7.1.116", compute_capability="portable")
    return lambda: tensorrt.open_backend(toy)


def caches(toy: Package) -> list[Path]:
    return sorted(toy.cache().glob("compiled/*"))


def test_the_second_start_compiles_nothing(opened: Open, toy: Package, gpu: Gpu) -> None:
    for _ in range(2):
        backend = opened()
        assert backend.name == "tensorrt_rtx 1.7.1.116"
        assert backend.load_log == ()
        assert backend.degraded == ""
        images = np.full((1, 4, 6, 3), 7, np.uint8)
        assert backend.run(images)[0].tolist() == [[7, 7, 7]]
        config = backend._engine._config
        assert config.dynamic_shapes_kernel_specialization_strategy == 1
        del config
        backend.close()
        assert not gpu.live()
    assert gpu.compilations == 1
    assert [path.read_bytes() for path in caches(toy)] == [COMPILED]


def test_another_gpu_or_plan_has_another_file(
    opened: Open, toy: Package, add: Callable, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().close()
    fake = type(sys.modules["cuda.bindings.driver"])
    monkeypatch.setattr(fake, "cuDeviceGetName", lambda self, length, device: (0, b"Another GPU"))
    opened().close()
    assert len(caches(toy)) == 2


def test_a_damaged_file_is_deleted_and_said(opened: Open, toy: Package, gpu: Gpu) -> None:
    opened().close()
    (path,) = caches(toy)
    path.write_bytes(b"damaged")
    backend = opened()
    assert [line.rpartition(": ")[2] for line in backend.load_log] == ["deleted"]
    assert str(path) in backend.load_log[0]
    backend.close()
    assert path.read_bytes() == COMPILED, "and written anew"


def test_a_cache_that_cannot_be_kept_is_said(opened: Open, toy: Package, gpu: Gpu) -> None:
    toy.cache().parent.mkdir(parents=True)
    toy.cache().write_text("a file where the folder should be")
    backend = opened()
    assert "was not saved" in backend.load_log[-1]
    backend.close()


def test_a_library_without_a_cache(opened: Open, toy: Package, gpu: Gpu) -> None:
    gpu.fail["create_runtime_cache"] = 1
    backend = opened()
    assert "no compilation cache" in backend.load_log[-1]
    assert backend.run(np.zeros((1, 4, 6, 3), np.uint8))[0].tolist() == [[0, 0, 0]]
    backend.close()
    assert caches(toy) == []


def test_an_engine_that_cannot_be_recorded(opened: Open, gpu: Gpu) -> None:
    gpu.fail["is_stream_capturable"] = 1
    backend = opened()
    assert backend.degraded.endswith("TensorRT-RTX says that this engine cannot be recorded")
    assert backend.run(np.full((1, 4, 6, 3), 7, np.uint8))[0].tolist() == [[7, 7, 7]]
    backend.close()
    assert not gpu.live()
