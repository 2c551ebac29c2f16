"""The CUDA layer with both libraries: really without a driver, and with fakes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import cuda
from runtime.backends.cuda.memory import DeviceBuffer, Graph, PinnedArray, Stream
from runtime.errors import BackendError, BackendUnavailable, InputError
from tests.runtime.engine_outputs import check_outputs, random_images
from tests.runtime.fake_cuda import CALLS, FakeDriver
from tests.runtime.fake_gpu import LEGACY, Gpu
from tests.runtime.fake_pycuda import fake_pycuda

ROOT = Path(__file__).parents[4]


def install_pycuda(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, **attributes: int) -> None:
    """Make a fake PyCUDA importable, and choose it."""
    monkeypatch.setenv(cuda.VARIABLE, "pycuda")
    pycuda, driver = fake_pycuda(gpu, attributes=attributes)
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


@pytest.fixture(params=cuda.NAMES)
def library(request, gpu, monkeypatch):
    install_pycuda(gpu, monkeypatch)
    monkeypatch.setenv(cuda.VARIABLE, request.param)
    return cuda.implementation()


@pytest.fixture
def stream(library, gpu):
    with library.current(0), Stream(library) as made:
        yield made
    assert not gpu.live()


# Really without a driver.


@pytest.mark.skipif(not cuda.installed("cuda.bindings"), reason="cuda-bindings is not installed")
def test_a_machine_without_a_driver_says_so():
    """Runs in a new process, without the fakes."""
    code = (
        "from runtime.backends import cuda\n"
        "from runtime.errors import BackendUnavailable\n"
        "for probe in (cuda.driver, cuda.device):\n"
        "    try: print(probe())\n"
        "    except BackendUnavailable as error: print(error.came, '|', error.cure)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if "DriverInfo" in answer.stdout:
        pytest.skip("this machine has a driver")
    for line in answer.stdout.splitlines():
        assert "there is no NVIDIA driver (" in line
        assert "r580" in line


# Which library.


def test_pycuda_is_chosen_without_cuda_bindings(gpu, monkeypatch):
    install_pycuda(gpu, monkeypatch)
    monkeypatch.delenv(cuda.VARIABLE)
    monkeypatch.setattr(cuda, "installed", lambda *modules: True)
    assert cuda.implementation().name == "cuda-bindings for CUDA 13.5"
    cuda._implementation.cache_clear()
    monkeypatch.setattr(cuda, "installed", lambda *modules: modules == ("pycuda",))
    assert cuda.implementation().name == "PyCUDA 2026.1"
    assert cuda.implementation() is cuda.implementation()


def test_a_requested_library_is_not_replaced(gpu, monkeypatch):
    monkeypatch.setenv(cuda.VARIABLE, "pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailable, match="PyCUDA is"):
        cuda.implementation()
    monkeypatch.setenv(cuda.VARIABLE, "cupy")
    with pytest.raises(InputError, match="NEMU_CUDA='cupy'"):
        cuda.implementation()


def test_missing_bindings_say_how_to_get_them(gpu, monkeypatch):
    for module in ("cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv(cuda.VARIABLE, "cuda-bindings")
    with pytest.raises(BackendUnavailable, match=r"pip install .cuda-bindings"):
        cuda.driver()


# Both of them.


def test_driver_and_device(library):
    assert cuda.driver().devices == 1
    assert cuda.driver().cuda == ("12.6" if library.no_graphs else "13.2")
    info = cuda.device(0)
    assert (info.name, info.compute_capability, info.integrated) == ("Fake GPU", "8.9", False)
    assert info.memory_bytes == 1 << 34
    for index in (1, -1):
        with pytest.raises(BackendUnavailable, match="0 to 0: 1 device"):
            cuda.device(index)


def test_a_broken_driver_is_not_called_missing(gpu, monkeypatch):
    gpu.fail.update(cuInit=803, init=803)
    with pytest.raises(BackendUnavailable, match=r"driver is for CUDA 13\.2 \(CUDA_ERROR_803"):
        cuda.driver()
    install_pycuda(gpu, monkeypatch)
    with pytest.raises(BackendUnavailable, match=r"driver is for CUDA 12\.6 \(init failed"):
        cuda.driver()


def test_copies_are_done_after_synchronize(library, gpu):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with (
        library.current(0),
        Stream(library) as stream,
        PinnedArray(library, (3, 4), np.float32) as there,
        PinnedArray(library, (3, 4), np.float32) as back,
        DeviceBuffer(library, values.nbytes) as buffer,
    ):
        there.array[:], back.array[:] = values, 0
        library.copy_in(buffer.handle, there.handle, there.nbytes, stream.handle)
        library.copy_out(back.handle, buffer.handle, 32, stream.handle)
        assert not back.array.any()
        library.synchronize(stream.handle)
        np.testing.assert_array_equal(back.array, [*values[:2], np.zeros(4)])
        library.fill(buffer.handle, 0xFF, buffer.nbytes, stream.handle)
        library.copy_out(back.handle, buffer.handle, back.nbytes, stream.handle)
        library.synchronize(stream.handle)
        assert np.isnan(back.array).all()
    assert not gpu.live()
    assert gpu.events == ["memory", "host memory", "host memory", "stream"]


def test_copies_within_the_device_keep_their_order(library, stream):
    with (
        PinnedArray(library, (4,), np.uint8) as back,
        DeviceBuffer(library, 4) as one,
        DeviceBuffer(library, 4) as two,
    ):
        for buffer, byte in ((one, 7), (two, 9)):
            library.fill(buffer.handle, byte, 4, stream.handle)
        library.copy(two.handle, one.handle, 3, stream.handle)
        library.fill(one.handle, 1, 4, stream.handle)
        library.copy_out(back.handle, two.handle, 4, stream.handle)
        library.synchronize(stream.handle)
        assert back.array.tolist() == [7, 7, 7, 9]


def test_an_event_is_done_after_earlier_work(library, stream, gpu):
    event = library.event_create()
    assert library.event_done(event)
    library.event_record(event, stream.handle)
    assert not library.event_done(event)
    library.synchronize(stream.handle)
    assert library.event_done(event)
    foreign = gpu.stream_create()
    for handle in (0, LEGACY, foreign):
        library.event_record(event, handle)
        gpu.synchronize(handle)
        gpu.synchronize(LEGACY)
        assert library.event_done(event)
    gpu.stream_destroy(foreign)
    done: list[str] = []
    gpu.enqueue(stream.handle, lambda: done.append("before"))
    library.event_record(event, stream.handle)
    gpu.enqueue(stream.handle, lambda: done.append("after"))
    library.event_synchronize(event)
    assert done == ["before"]
    gpu.fail.update(dict.fromkeys(("cuEventQuery", "Event.query"), 700))
    with pytest.raises(BackendError, match="Query failed|query failed"):
        library.event_done(event)
    library.event_record(event, stream.handle)
    library.event_destroy(event)  # not done yet
    library.synchronize(stream.handle)


def test_close_twice_and_use_after_close(library, gpu):
    with library.current(0):
        buffer, pinned = DeviceBuffer(library, 8), PinnedArray(library, (2,), np.uint8)
        for resource in (buffer, pinned, buffer, pinned):
            resource.close()
    assert gpu.events == ["memory", "host memory"]
    with pytest.raises(BackendError, match="DeviceBuffer was used after close"):
        _ = buffer.handle
    with pytest.raises(BackendError, match="PinnedArray was used after close"):
        _ = pinned.array


def test_failures_carry_cudas_own_name(library, stream, gpu):
    gpu.fail.update(cuMemAlloc=2, mem_alloc=2, cuStreamSynchronize=700)
    gpu.fail["Stream.synchronize"] = 700
    with pytest.raises(BackendError, match="(cuMemAlloc|mem_alloc) failed.* as the test wanted"):
        DeviceBuffer(library, 8)
    with pytest.raises(BackendError, match="ynchronize failed.*as the test wanted"):
        library.synchronize(stream.handle)


def test_current_restores_the_context_before(library, gpu):
    gpu.stack().append(0xAB)  # the context of a PyCUDA host, say
    with library.current(0):
        assert gpu.stack() == [0xAB, 0xC0]
        with pytest.raises(ZeroDivisionError), library.current(0):
            _ = 1 / 0
    assert gpu.stack() == [0xAB]
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(gpu.stack).result() == []
    gpu.stack().clear()


def test_order_makes_one_stream_wait_for_the_other(library, gpu):
    done: list[str] = []
    with library.current(0), Stream(library) as one, Stream(library) as two:
        event = library.event_create()
        gpu.enqueue(one.handle, lambda: done.append("one"))
        library.order(one.handle, two.handle, event)
        gpu.enqueue(two.handle, lambda: done.append("two"))
        library.synchronize(two.handle)
        gpu.enqueue(LEGACY, lambda: done.append("default"))
        library.order(LEGACY, one.handle, event)
        gpu.enqueue(one.handle, lambda: done.append("one"))
        library.synchronize(one.handle)
        foreign = gpu.stream_create()
        gpu.enqueue(foreign, lambda: done.append("host's"))
        library.order(foreign, one.handle, event)
        gpu.enqueue(one.handle, lambda: done.append("one"))
        library.order(one.handle, foreign, event)
        gpu.synchronize(foreign)
        gpu.stream_destroy(foreign)
        library.synchronize(one.handle)
        library.event_destroy(event)
    assert done == ["one", "two", "default", "one", "host's", "one"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ((2, False, 0, 0xC0), ""),
        ((2, False, 0, 0), ""),  # from a pool: of no context
        ((1, True, 1, 0xC0), ""),  # managed: wherever it is now
        ((2, False, 1, 0xC1), "an array on device 1"),
        ((2, False, 0, 0xAB), "another CUDA context of this device"),
        ((1, False, 0, 0xC0), "0x40 is not memory of a GPU"),
        (None, "0x40 is not memory of a GPU"),
    ],
)
def test_check_pointer_accepts_own_device_memory_only(gpu, monkeypatch, attributes, message):
    """Attributes: type of memory, whether managed, device, context; None if CUDA returns an error."""
    answer = (0, attributes) if attributes else (1, None)
    signature = CALLS["cuPointerGetAttributes"][0]
    monkeypatch.setitem(CALLS, "cuPointerGetAttributes", (signature, lambda *arguments: answer))
    with pytest.raises(InputError, match=message) if message else nullcontext():
        cuda.implementation().check_pointer(64, 8, 0)


# Graphs.


def test_a_graph_repeats_what_was_captured(gpu):
    library = cuda.implementation()
    done: list[int] = []
    with library.current(0), Stream(library) as stream:
        with Graph(library, stream, lambda: gpu.enqueue(stream.handle, lambda: done.append(1))) as graph:
            assert done == []
            graph.launch()
            graph.launch()
            library.synchronize(stream.handle)
        assert done == [1, 1]
    assert not gpu.live()


def test_is_capturing_tells_a_captured_stream(gpu):
    library = cuda.implementation()
    with library.current(0), Stream(library) as stream:
        assert not library.is_capturing(stream.handle)
        asked: list[bool] = []
        Graph(library, stream, lambda: asked.append(library.is_capturing(stream.handle))).close()
        assert asked == [True]
        gpu.fail["cuStreamIsCapturing"] = 906  # of the default stream, as CUDA says while a host records
        assert library.is_capturing(LEGACY)
        gpu.fail["cuStreamIsCapturing"] = 400
        with pytest.raises(BackendError, match="cuStreamIsCapturing failed"):
            library.is_capturing(stream.handle)


@pytest.mark.parametrize("fault", ["", "cuStreamEndCapture"])
def test_a_failed_capture_leaves_the_stream_usable(gpu, fault):
    library = cuda.implementation()

    def work() -> None:
        gpu.fail.update({fault: 901})
        raise BackendError("the kernel", expected="x", cure="y")

    with library.current(0), Stream(library) as stream:
        with pytest.raises(BackendError, match="the kernel"):
            Graph(library, stream, work)
        gpu.fail.clear()
        library.synchronize(stream.handle)
    assert not gpu.live()


def test_pycuda_runs_without_graphs_and_says_so(open_toy, gpu, monkeypatch):
    install_pycuda(gpu, monkeypatch)
    backend = open_toy()
    assert "PyCUDA 2026.1" in backend.why
    assert backend.degraded == "no CUDA graph for batches of 1: PyCUDA has none: pip install cuda-bindings"
    images = random_images(1)
    for _ in range(3):
        check_outputs(images, backend.run(images))
    with ThreadPoolExecutor(1) as thread:
        found, stack = thread.submit(lambda: (backend.run(images), gpu.stack())).result()
    check_outputs(images, found)
    assert stack == [], "PyCUDA aborts the process if a thread ends with a context pushed"


# Where the input is.


@pytest.mark.parametrize(
    ("machine", "attributes", "mapped"),
    [
        ("a card", {"INTEGRATED": 0, "PAGEABLE_MEMORY_ACCESS": 0}, False),
        ("a card in a machine with one address space", {"INTEGRATED": 0, "PAGEABLE_MEMORY_ACCESS": 1}, False),
        ("Orin", {"INTEGRATED": 1, "PAGEABLE_MEMORY_ACCESS": 0}, True),
        ("Thor", {"INTEGRATED": 1, "PAGEABLE_MEMORY_ACCESS": 1}, False),
        ("one that cannot map", {"INTEGRATED": 1, "CAN_MAP_HOST_MEMORY": 0}, False),
    ],
)
@pytest.mark.parametrize("name", cuda.NAMES)
def test_integrated_gpus_read_the_input_in_place(
    open_toy, gpu, monkeypatch, name, machine, attributes, mapped
):
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeDriver(gpu, **attributes))
    install_pycuda(gpu, monkeypatch, **attributes)
    monkeypatch.setenv(cuda.VARIABLE, name)
    assert cuda.device(0).mapped_input is mapped
    backend, copies = open_toy(), 3 if mapped else 4
    assert sum(block.kind == "device" for block in gpu.blocks.values()) == copies
    assert [len(ops) for ops in gpu.graphs.values()] == ([] if name == "pycuda" else [copies])
    check_outputs(random_images(1), backend.run(random_images(1)))
