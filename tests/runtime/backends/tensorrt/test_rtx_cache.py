"""The cache of TensorRT-RTX, also damaged or read-only, and CUDA graphs with that library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.package.folder import Package
from tests.runtime.engine_outputs import check_outputs, random_images
from tests.runtime.fake_cuda import CALLS
from tests.runtime.fake_tensorrt import COMPILED, RECORDABLE

FLAG = "require_user_allocation"


@pytest.fixture
def opened(open_toy, rtx):
    """Opens an RTX engine whose runs can be captured."""
    return lambda: open_toy(plan=RECORDABLE, flags={FLAG: True}, **rtx)


@pytest.fixture
def unrecordable(open_toy, rtx):
    """Opens an engine that was built without the flag."""
    return lambda: open_toy(**rtx)


def caches(toy: Package) -> list[Path]:
    return sorted(toy.cache().glob("compiled/*"))


def test_a_second_start_compiles_nothing(opened, toy, gpu):
    for _ in range(2):
        backend = opened()
        assert backend.name == "tensorrt_rtx 1.7.1.116"
        assert (backend.load_log, backend.degraded) == ((), "")
        check_outputs(random_images(1), backend.run(random_images(1)))
        assert backend._engine._config.dynamic_shapes_kernel_specialization_strategy == 1
        backend.close()
        assert not gpu.live()
    assert gpu.compilations == 1
    assert [path.read_bytes() for path in caches(toy)] == [COMPILED + bytes([1])]


def test_other_batches_are_padded_to_the_largest(opened, toy, gpu):
    for compilations in (2, 2):
        backend = opened()
        for n in (3, 1, 2, 4):
            check_outputs(random_images(n), backend.run(random_images(n)))
        assert backend._lanes.keys() == {"least", "most"}
        backend.close()
        assert gpu.compilations == compilations
    assert [path.read_bytes() for path in caches(toy)] == [COMPILED + bytes([1, 4])]


def test_close_saves_what_was_compiled_later(opened, toy):
    backend = opened()
    backend._engine.cache._cache.compiled.append(2)
    backend.close()
    assert [path.read_bytes() for path in caches(toy)] == [COMPILED + bytes([1, 2])]


def test_another_gpu_or_plan_has_another_file(opened, toy, add, gpu, monkeypatch):
    opened().close()
    monkeypatch.setitem(CALLS, "cuDeviceGetName", ("*c i i", lambda *arguments: b"Another GPU"))
    opened().close()
    assert len(caches(toy)) == 2


def test_a_damaged_cache_is_deleted_and_reported(opened, toy, gpu):
    opened().close()
    (path,) = caches(toy)
    path.write_bytes(b"damaged")
    backend = opened()
    assert [line.rpartition(": ")[2] for line in backend.load_log] == ["deleted"]
    assert str(path) in backend.load_log[0]
    backend.close()
    assert path.read_bytes() == COMPILED + bytes([1]), "it is written again"


def test_an_unwritable_cache_is_reported(opened, toy, gpu):
    toy.cache().parent.mkdir(parents=True)
    toy.cache().write_text("a file where the folder should be")
    backend = opened()
    assert "was not saved" in backend.load_log[-1]


def test_the_engine_runs_without_a_cache(opened, toy, gpu):
    gpu.fail["create_runtime_cache"] = 1
    backend = opened()
    assert "no compilation cache" in backend.load_log[-1]
    check_outputs(random_images(1), backend.run(random_images(1)))
    assert caches(toy) == []


def test_an_engine_with_the_flag_is_captured(opened, gpu):
    backend = opened()
    before = gpu.launches
    check_outputs(random_images(1), backend.run(random_images(1)))
    assert (backend.degraded, gpu.launches - before) == ("", 1)
    assert not backend._lanes["least"]._context.records


def test_without_the_flag_the_library_captures_itself(unrecordable, gpu):
    backend = unrecordable()
    said = (
        "TensorRT-RTX says that this engine cannot be recorded "
        "(it was built without require_user_allocation: build it again); "
        "TensorRT-RTX records what it launches by itself instead"
    )
    assert backend.degraded == f"no CUDA graph for batches of 1: {said}"
    for n in (1, 4, 1):
        check_outputs(random_images(n), backend.run(random_images(n)))
    assert all(lane._context.records for lane in backend._lanes.values())
    assert (len(backend._lanes), gpu.launches) == (2, 0)


def test_no_rebuild_is_advised_where_the_flag_failed(toy, add, rtx, unrecordable):
    add(toy, "a-first", flags={FLAG: False}, **rtx)
    backend = unrecordable()
    assert "recorded (its builder could not do with require_user_allocation); " in backend.degraded


def test_graphs_of_the_library_are_compared_too(unrecordable, gpu):
    gpu.fail["own recording"] = 1
    backend = unrecordable()
    assert backend.degraded.endswith("what it records by itself did not give what a plain run gives")
    check_outputs(random_images(1), backend.run(random_images(1)))
    assert not backend._lanes["least"]._context.records


def test_an_older_library_captures_nothing(unrecordable, gpu, monkeypatch):
    monkeypatch.delattr(sys.modules["tensorrt_rtx"].IRuntimeConfig, "cuda_graph_strategy")
    backend = unrecordable()
    assert backend.degraded.endswith("build it again)")
    check_outputs(random_images(1), backend.run(random_images(1)))
