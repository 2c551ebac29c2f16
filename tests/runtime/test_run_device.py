"""Images of a host application that are on the GPU already, and outputs that stay there."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from fake_gpu import LEGACY, Gpu

from runtime import Explainer
from runtime.backends.device_array import read, stream_handle
from runtime.backends.fake import FakeBackend
from runtime.errors import BackendError, InputError
from runtime.package import Package

SHAPE = (1, 4, 6, 3)


class HostArray:
    """What a host application has on the GPU; speaks the CUDA array interface."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...] = SHAPE, **facts: object) -> None:
        gpu.stack().append(0xC0)
        self.pointer = gpu.allocate(int(np.prod(shape)), "device")
        gpu.pop()
        self.values = on_device(self.pointer, shape, np.uint8)
        self.values[:] = np.random.default_rng(shape[0]).integers(0, 256, shape, np.uint8)
        data = (self.pointer, False)
        self.facts = {"shape": shape, "typestr": "|u1", "data": data, "strides": None, "version": 3, **facts}

    @property
    def __cuda_array_interface__(self) -> dict:
        return {name: value for name, value in self.facts.items() if value != "absent"}


class Capsules(HostArray):
    """The same, speaking DLPack, by a capsule made by hand; `code`, `device` and `strides` may be wrong."""

    code, device, strides = 1, (2, 0), None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int) -> object:
        self.asked = stream
        shape = self.facts["shape"]
        self.shape_memory = (ctypes.c_int64 * len(shape))(*shape)
        strides = ctypes.addressof((ctypes.c_int64 * 4)(*self.strides)) if self.strides else 0
        self.kept = strides
        fields = np.zeros(48, np.uint8)
        fields[:8].view(np.uint64)[0] = self.pointer
        fields[8:20].view(np.int32)[:] = (*self.device, len(shape))
        fields[20:22] = (self.code, 8)
        fields[22:24].view(np.uint16)[0] = 1
        fields[24:32].view(np.uint64)[0] = ctypes.addressof(self.shape_memory)
        self.fields = fields
        if self.strides:
            self.strides_memory = (ctypes.c_int64 * 4)(*self.strides)
            fields[32:40].view(np.uint64)[0] = ctypes.addressof(self.strides_memory)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(fields.ctypes.data, b"dltensor", None)


def on_device(pointer: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), dtype).reshape(shape)


def values(array: object) -> np.ndarray:
    facts = array.__cuda_array_interface__
    assert (facts["typestr"], facts["strides"], facts["version"]) == ("<f4", None, 3)
    return on_device(facts["data"][0], facts["shape"], np.float32)


@pytest.fixture
def explainer(toy: Package, add: Callable, gpu: Gpu) -> Iterator[Explainer]:
    add(toy, "toy")
    with Explainer(toy, backend="tensorrt") as explainer:
        yield explainer


@pytest.mark.parametrize("kind", [HostArray, Capsules])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_nothing_is_copied_and_the_outputs_stay_there(
    explainer: Explainer, gpu: Gpu, kind: type[HostArray], n: int
) -> None:
    array = kind(gpu, (n, 4, 6, 3))
    explanation = explainer.run_device(array)
    assert explanation.embedding_id == explainer.embedding_id == "toy-fp16"
    queue = gpu.streams[explanation.embedding.__cuda_array_interface__["stream"]].queue
    assert array.pointer in queue[-1].touches, "the engine reads the host's own memory"
    explanation.synchronize()
    np.testing.assert_allclose(values(explanation.embedding), array.values.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(values(explanation.mask), array.values[..., 0] / np.float32(255), rtol=1e-6)
    assert (explanation.embedding.shape, explanation.mask.shape) == ((n, 3), (n, 4, 6))
    assert explanation.mask.pointer == explanation.mask.__cuda_array_interface__["data"][0]


def test_outputs_live_as_long_as_something_refers_to_them(explainer: Explainer, gpu: Gpu) -> None:
    first = explainer.run_device(HostArray(gpu))
    before = len(gpu.blocks)
    second = explainer.run_device(HostArray(gpu))
    assert len(gpu.blocks) == before + 3
    mask = second.mask
    del second  # with a run still enqueued
    assert len(gpu.blocks) == before + 2
    explainer.close()
    np.testing.assert_allclose(values(first.embedding).shape, (1, 3))
    assert mask.__cuda_array_interface__["stream"] is None, "the values are there, and nobody need wait"
    first.synchronize()
    thread = threading.Thread(target=lambda: gc.collect())
    del mask, first
    thread.start()
    thread.join()
    assert sum(block.kind == "device" for block in gpu.blocks.values()) == 2, "only the host's own"


def test_the_order_of_streams(explainer: Explainer, gpu: Gpu) -> None:
    gpu.stack().append(0xC0)
    theirs = gpu.stream_create()

    def later(array: HostArray, stream: int) -> None:
        array.values[:] = 0
        gpu.enqueue(stream, lambda: array.values.fill(200))

    for facts, producer in (
        ({"stream": theirs}, theirs),
        ({"stream": None}, LEGACY),  # as PyCUDA says
        ({"stream": "absent", "version": 2}, LEGACY),
    ):
        later(array := HostArray(gpu, **facts), producer)
        explanation = explainer.run_device(array)
        explanation.synchronize()
        assert values(explanation.embedding).tolist() == [[200, 200, 200]], facts
    later(array := HostArray(gpu), theirs)
    explanation = explainer.run_device(array, stream=SimpleNamespace(handle=theirs))
    found: list[list] = []
    gpu.enqueue(theirs, lambda: found.append(values(explanation.embedding).tolist()))
    gpu.synchronize(theirs)
    assert found == [[[200, 200, 200]]], "the stream that was given finds the outputs"
    explanation.synchronize()
    gpu.stream_destroy(theirs)
    gpu.pop()


def test_dlpack_is_asked_to_be_ready_on_our_stream(explainer: Explainer, gpu: Gpu) -> None:
    explanation = explainer.run_device(array := Capsules(gpu))
    assert array.asked == explanation.mask.stream.handle
    explanation.synchronize()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"typestr": "<f4"}, "type <f4"),
        ({"typestr": "|b1"}, "type |b1"),
        ({"strides": (72, 18, 1, 6)}, "strides"),
        ({"stream": 0}, "stream is 0"),
        ({"shape": (1, 6, 4, 3)}, r"\(N, 4, 6, 3\), N from 1 to 4"),
        ({"shape": (4, 6, 3)}, r"\(N, 4, 6, 3\)"),
        ({"shape": (5, 4, 6, 3)}, "N from 1 to 4"),
        ({"data": (4096 + 8, False)}, "256"),
        ({"data": (4096, False)}, "not memory of a GPU"),
    ],
)
def test_other_arrays_are_refused(explainer: Explainer, gpu: Gpu, facts: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        explainer.run_device(HostArray(gpu, **facts))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"code": 6}, "code, bits, lanes"),
        ({"device": (1, 0)}, "kind 1"),
        ({"device": (2, 1)}, "device 1.*\n.*device 0.*\n.*device=1"),
        ({"strides": (72, 18, 1, 6)}, "strides"),
    ],
)
def test_other_capsules_are_refused(explainer: Explainer, gpu: Gpu, facts: dict, words: str) -> None:
    array = Capsules(gpu)
    vars(array).update(facts)
    with pytest.raises(InputError, match=words):
        explainer.run_device(array)


def test_strides_of_axes_that_do_not_count(explainer: Explainer, gpu: Gpu) -> None:
    array = HostArray(gpu, strides=(999, 18, 3, 1))
    explanation = explainer.run_device(array)
    explanation.synchronize()
    assert values(explanation.embedding) == pytest.approx(array.values.mean((1, 2)), rel=1e-6)


def test_memory_of_another_context_or_device_is_refused(explainer: Explainer, gpu: Gpu) -> None:
    array = HostArray(gpu)
    gpu.find(array.pointer).context = 0xAB  # as with pycuda.autoinit
    with pytest.raises(InputError, match="autoprimaryctx"):
        explainer.run_device(array)
    gpu.fail["device"] = 1
    with pytest.raises(InputError, match="an array on device 1"):
        explainer.run_device(array)


def test_what_is_no_array_of_a_device(explainer: Explainer, tiny: Package) -> None:
    with pytest.raises(InputError, match="an ndarray|kind 1"):
        explainer.run_device(np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match="run_device was given a str"):
        explainer.run_device("photo.jpg")
    fake = FakeBackend(lambda images: (images, images))
    with (
        Explainer(tiny, backend=fake) as host,
        pytest.raises(BackendError, match="run_device with fake.*\n.*\n.*backend='tensorrt'"),
    ):
        host.run_device(np.zeros(SHAPE, np.uint8))


def test_streams_of_the_libraries_by_their_names() -> None:
    for name in ("handle", "cuda_stream", "ptr"):
        assert stream_handle(SimpleNamespace(**{name: 77})) == 77
    assert stream_handle(0) == 0
    with pytest.raises(InputError, match="stream: a str"):
        stream_handle("default")


def test_failures_leave_nothing_behind(explainer: Explainer, gpu: Gpu) -> None:
    array = HostArray(gpu)
    explainer.run_device(array).synchronize()
    gc.collect()
    before = gpu.live()
    for call in ("cuMemAlloc", "execute_async_v3", "cuEventRecord"):
        gpu.fail[call] = 2
        with pytest.raises(BackendError, match=f"{call} failed"):
            explainer.run_device(array)
        gpu.fail.clear()
        gc.collect()
        assert gpu.live() == before, call
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        explainer.run_device(array)


def test_a_real_capsule_of_torch_is_read() -> None:
    """On the CPU, where the same structure describes the tensor; the kind of device is pretended."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(72, dtype=torch.uint8).reshape(SHAPE)
    aligned = torch.empty(72 + 256, dtype=torch.uint8)
    start = -aligned.data_ptr() % 256
    aligned = aligned[start : start + 72].view(SHAPE)
    aligned.copy_(tensor)
    wrapper = SimpleNamespace(
        __dlpack_device__=lambda: (2, 0), __dlpack__=lambda stream: aligned.__dlpack__()
    )
    source = read(wrapper, 7)
    assert (source.pointer, source.shape, source.stream) == (aligned.data_ptr(), SHAPE, None)
    assert np.array_equal(on_device(source.pointer, SHAPE, np.uint8), tensor.numpy())
    transposed = SimpleNamespace(
        __dlpack_device__=lambda: (2, 0), __dlpack__=lambda stream: aligned.transpose(1, 2).__dlpack__()
    )
    with pytest.raises(InputError, match="strides"):
        read(transposed, 7)
