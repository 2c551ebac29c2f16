"""Timings are kept from build to build; what no longer holds is dropped, and said."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from export.engine import timing_cache as module
from export.engine.timing_cache import cache_file, timing_cache
from runtime.backends import cuda
from tests.export.test_targets import ORIN

TRT = SimpleNamespace(__version__="10.3.0")
GPU = dataclasses.replace(ORIN, name="Orin (nvgpu)")


class Config:
    """IBuilderConfig and ITimingCache of TensorRT 10 and 11, as far as they are used."""

    def __init__(self, *, takes=lambda blob: True) -> None:
        self.takes = takes
        self.cache = None

    def create_timing_cache(self, blob: bytes):
        return SimpleNamespace(blob=bytes(blob), serialize=lambda: bytes(blob) + b"+measured")

    def set_timing_cache(self, cache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if self.takes(cache.blob):
            self.cache = cache
        return self.takes(cache.blob)

    def get_timing_cache(self):
        return self.cache


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "driver", lambda: cuda.DriverInfo(cuda="12.6", devices=1))
    return tmp_path


def test_next_build_starts_with_stored_timings(capsys):
    with timing_cache(TRT, Config(), GPU, say=True) as first:
        assert first == "empty"
    config = Config()
    with timing_cache(TRT, config, GPU, say=True) as second:
        assert second == "filled"
        assert config.cache.blob == b"+measured"
    said = capsys.readouterr().err
    assert "timing cache (empty): " in said
    assert f"timing cache (filled): {cache_file(TRT, GPU)}" in said


def test_an_interrupted_build_keeps_what_it_measured():
    with pytest.raises(KeyboardInterrupt), timing_cache(TRT, Config(), GPU, say=False):
        raise KeyboardInterrupt
    with timing_cache(TRT, Config(), GPU, say=False) as cache:
        assert cache == "filled"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" + data[1:]])
def test_damaged_cache_file_is_dropped(damage, capsys):
    with timing_cache(TRT, Config(), GPU, say=False):
        pass
    path = cache_file(TRT, GPU)
    path.write_bytes(damage(path.read_bytes()))
    with timing_cache(TRT, Config(), GPU, say=False) as cache:
        assert cache == "empty"
        assert not path.exists()
    said = capsys.readouterr().err
    assert f"{path} is dropped: it is damaged" in said
    assert path.exists()


def test_timings_refused_by_tensorrt_are_dropped(capsys):
    with timing_cache(TRT, Config(), GPU, say=False):
        pass
    config = Config(takes=lambda blob: not blob)
    with timing_cache(TRT, config, GPU, say=False) as cache:
        assert cache == "empty"
        assert config.cache.blob == b""
    assert "TensorRT does not take it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trt", "gpu", "driver"),
    [
        (SimpleNamespace(__version__="10.13.3"), GPU, "12.6"),
        (TRT, dataclasses.replace(GPU, name="Thor"), "12.6"),
        (TRT, dataclasses.replace(GPU, compute_capability="11.0"), "12.6"),
        (TRT, GPU, "13.0"),
    ],
)
def test_version_gpu_and_driver_each_have_their_own(trt, gpu, driver, monkeypatch):
    here = cache_file(TRT, GPU)
    monkeypatch.setattr(cuda, "driver", lambda: cuda.DriverInfo(cuda=driver, devices=1))
    assert cache_file(trt, gpu) != here
    assert here.name == "10.3.0_Orin-nvgpu-_8.7_12.6.cache"


def test_a_full_disk_does_not_cost_the_engine(monkeypatch, capsys):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "atomic_file", full)
    with timing_cache(TRT, Config(), GPU, say=False):
        pass
    assert "could not be kept: [Errno 28] No space left" in capsys.readouterr().err


def test_rtx_has_no_timing_cache(home):
    config = Config()
    with timing_cache(TRT, config, None, say=True) as cache:
        assert cache == "none"
    assert config.cache is None
    assert list(home.iterdir()) == []
