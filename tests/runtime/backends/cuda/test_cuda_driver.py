"""NVIDIA's own cuda-bindings, in a process of their own, over a stand-in for the driver, compiled here.

What the stand-ins for the bindings cannot tell is found here: the order, sizes and types of arguments.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.backends import cuda
from runtime.backends.cuda.base import Cuda, DeviceInfo, DriverInfo
from runtime.errors import BackendError, InputError

HERE = Path(__file__).parent
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


class Called:
    """A `Cuda` that notes which of its members were used."""

    def __init__(self, library: Cuda) -> None:
        self.library, self.names = library, set()

    def __getattr__(self, name: str) -> object:
        self.names.add(name)
        return getattr(self.library, name)


def array(pointer: int) -> ctypes.Array:
    return (ctypes.c_uint8 * 64).from_address(pointer)


def streams_and_events(library: Cuda, host: int, back: int, one: int, two: int) -> None:
    stream, other, event = library.stream_create(), library.stream_create(), library.event_create()
    array(host)[:] = range(64)
    library.copy_in(one, host, 64, stream)
    library.copy(two, one, 48, stream)
    library.fill(two + 4, 255, 2, stream)
    assert library.event_done(event)
    library.order(stream, other, event)
    library.copy_out(back, two, 60, other)
    library.event_record(event, other)
    assert not library.event_done(event)
    library.event_synchronize(event)
    assert library.event_done(event)
    assert list(array(back)) == [0, 1, 2, 3, 255, 255, *range(6, 48), *[0] * 16]
    for default in (0, 1):
        library.fill(one, default + 7, 64, default)
        library.order(default, stream, event)
        library.copy(two, one, 64, stream)
        library.order(stream, default, event)
        library.copy_out(back, two, 64, default)
        library.event_record(event, default)
        library.synchronize(default)
        assert list(array(back)) == [default + 7] * 64
        assert library.event_done(event)
    library.event_destroy(event)
    for made in (stream, other):
        library.stream_destroy(made)


def graphs(library: Cuda, host: int, back: int, one: int) -> None:
    stream = library.stream_create()
    assert not library.is_capturing(stream)
    library.begin_capture(stream)
    assert library.is_capturing(stream)
    library.copy_in(one, host, 64, stream)
    library.fill(one, 9, 32, stream)
    library.copy_out(back, one, 64, stream)
    with pytest.raises(BackendError, match="cuStreamSynchronize failed: CUDA_ERROR_900: of the stand-in"):
        library.synchronize(stream)
    graph = library.end_capture(stream)
    for value in (1, 2):
        array(host)[:] = [value] * 64
        library.graph_launch(graph, stream)
        library.synchronize(stream)
        assert list(array(back)) == [9] * 32 + [value] * 32
    library.graph_destroy(graph)
    library.stream_destroy(stream)


def addresses(library: Cuda, host: int, one: int) -> None:
    library.check_pointer(one, 64, 0)
    for pointer, index, message in (
        (host, 0, "not memory of a GPU"),
        (64, 0, "not memory"),
        (one, 1, "device 0"),
    ):
        with pytest.raises(InputError, match=message):
            library.check_pointer(pointer, 64, index)
    assert library.mapped_pointer(host) == host
    with pytest.raises(BackendError, match="cuMemAlloc failed: CUDA_ERROR_2"):
        library.malloc(1 << 40)


def walk() -> None:
    """Every method, and nothing stays open; prints what was called."""
    library = Called(cuda.implementation())
    fake_open = ctypes.CDLL("libcuda.so.1").fake_open
    assert library.name.startswith("cuda-bindings for CUDA 1")
    assert library.no_graphs == ""
    assert library.driver() == DriverInfo(cuda="12.0", devices=1)
    facts = {"name": "Stand-in", "compute_capability": "8.7", "memory_bytes": 1 << 33, "integrated": True}
    assert library.device(0) == DeviceInfo(index=0, mapped_input=True, **facts)
    with pytest.raises(BackendError, match="cuMemAlloc failed: CUDA_ERROR_201"):
        library.malloc(64)
    with library.current(0):
        host, back = library.host_alloc(64, mapped=True), library.host_alloc(64, mapped=False)
        one, two = library.malloc(64), library.malloc(64)
        streams_and_events(library, host, back, one, two)
        graphs(library, host, back, one)
        addresses(library, host, one)
        for pointer in (one, two):
            library.free(pointer)
        for pointer in (host, back):
            library.host_free(pointer)
        assert fake_open() == 2, "the context, and the thread-local mode"
    assert fake_open() == 0
    print(*library.names)


@pytest.mark.skipif(not cuda.installed("cuda.bindings"), reason="cuda-bindings is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is libcuda.so.1")
@pytest.mark.skipif(COMPILER is None, reason="no C compiler: neither cc, gcc nor clang")
def test_every_method_over_the_real_bindings(tmp_path: Path) -> None:
    compile_ = [COMPILER, "-shared", "-fPIC", "-o", "libcuda.so.1", HERE / "fake_libcuda.c", "-ldl"]
    subprocess.run(compile_, cwd=tmp_path, check=True)
    there = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), cuda.VARIABLE: "cuda-bindings"}
    there["PYTHONPATH"] = os.pathsep.join((str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")))
    answer = subprocess.run(
        [sys.executable, __file__], env=there, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    members = {*Cuda.__annotations__, *(name for name in vars(Cuda) if not name.startswith("_"))}
    assert set(answer.stdout.split()) == members


if __name__ == "__main__":
    walk()
