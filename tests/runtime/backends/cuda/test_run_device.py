"""Images of a host application on the GPU, and outputs that stay there."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import Explainer
from runtime.backends.cuda.device_array import read, stream_handle
from runtime.backends.fake import FakeBackend
from runtime.device_explanation import DeviceExplanation, tensor_of
from runtime.errors import BackendError, InputError
from tests.runtime.engine_outputs import check_outputs
from tests.runtime.fake_gpu import GLOBAL, LEGACY, Gpu
from tests.runtime.fake_tensorrt import OVERFLOWS, IExecutionContext

SHAPE = (1, 4, 6, 3)


class HostArray:
    """An array of the host application on the GPU, with the CUDA array interface."""

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
    """A `HostArray` with DLPack, by a capsule of NumPy; its code, device and strides may be wrong."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.facts.get("device", (2, 0))

    def __dlpack__(self, *, stream: int) -> object:
        self.asked = stream
        capsule = on_device(self.pointer, self.facts["shape"], np.uint8).__dlpack__()
        tensor, strides = tensor_of(capsule), self.facts["strides"]
        tensor.code = self.facts.get("code", 1)
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        tensor.strides = self.kept = strides and (ctypes.c_int64 * 4)(*strides)
        return capsule


def on_device(pointer: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), dtype).reshape(shape)


def values(array: object) -> np.ndarray:
    facts = array.__cuda_array_interface__
    assert (facts["typestr"], facts["strides"], facts["version"]) == ("<f4", None, 3)
    return on_device(facts["data"][0], facts["shape"], np.float32)


def check(explanation: DeviceExplanation, images: np.ndarray) -> None:
    """Wait for the outputs, and compare them with what the engine computes from these images."""
    explanation.synchronize()
    check_outputs(images, (values(explanation.embedding), values(explanation.mask)))


class Heard:
    """The driver API of cuda-bindings; appends the name of each call to `calls`."""

    def __init__(self, module: object, calls: list[str]) -> None:
        self._module, self._calls = module, calls

    def __getattr__(self, name: str) -> object:
        value = getattr(self._module, name)
        if not callable(value) or isinstance(value, type):
            return value
        return lambda *arguments: self._calls.append(name) or value(*arguments)


@pytest.fixture(scope="module")
def torch():
    """torch imports CUDA too, so it must be imported before the fake."""
    return pytest.importorskip("torch")


@pytest.fixture
def calls(gpu, monkeypatch):
    """The CUDA calls of an explainer that is opened after this."""
    heard: list[str] = []
    driver = "cuda.bindings.driver"
    monkeypatch.setitem(sys.modules, driver, Heard(sys.modules[driver], heard))
    return heard


@pytest.fixture
def explainer(toy, add, gpu):
    add(toy, "toy")
    with Explainer(toy, backend="tensorrt") as explainer:
        yield explainer


@pytest.fixture
def theirs(explainer, gpu):
    """A stream of the host application, whose context is current during the test."""
    gpu.stack().append(0xC0)
    stream = gpu.stream_create()
    yield stream
    gpu.stream_destroy(stream)
    gpu.pop()


@pytest.mark.parametrize("kind", [HostArray, Capsules])
@pytest.mark.parametrize(("n", "launches"), [(1, 1), (3, 0), (4, 1)])
def test_images_and_outputs_stay_on_the_device(explainer, gpu, kind, n, launches):
    explainer.run_device(kind(gpu, (n, 4, 6, 3)))  # makes the lane
    before, array = gpu.launches, kind(gpu, (n, 4, 6, 3))
    array.values[:] = np.random.default_rng(9).integers(0, 256, array.values.shape, np.uint8)
    explanation = explainer.run_device(array)
    assert gpu.launches - before == launches
    assert getattr(array, "asked", explanation.mask.stream) == explanation.mask.stream
    assert explanation.embedding_id == explainer.embedding_id == "toy-fp16"
    queue = gpu.streams[explanation.embedding.__cuda_array_interface__["stream"]].queue
    assert {gpu.find(pointer).kind for op in queue for pointer in op.touches} == {"device"}
    check(explanation, array.values)
    assert (explanation.embedding.shape, explanation.mask.shape) == ((n, 3), (n, 4, 6))
    assert explanation.mask.pointer == explanation.mask.__cuda_array_interface__["data"][0]


PUSHED, ASKED = ["cuCtxPushCurrent", "cuThreadExchangeStreamCaptureMode"], "cuStreamIsCapturing"
CHECKED = [ASKED, "cuPointerGetAttributes", "cuEventQuery"]
ORDERED = ["cuEventRecord", "cuStreamWaitEvent"]
COPY = "cuMemcpyDtoDAsync"
RUN = [COPY, "cuGraphLaunch", COPY, COPY, "cuEventRecord"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(False, [*PUSHED, *CHECKED, *RUN]), (True, [*PUSHED, ASKED, *CHECKED, *ORDERED, *RUN, ORDERED[1]])],
    ids=["dlpack alone", "a stream"],
)
def test_a_warm_run_only_enqueues_and_asks(calls, explainer, theirs, gpu, given, expected):
    options = {"stream": theirs} if given else {}
    images = [Capsules(gpu) for _ in range(3)]
    for array in images:
        explainer.run_device(array, **options).synchronize()
    explanation = explainer.run_device(images[0], **options)
    gpu.synchronize(explanation.mask.stream)  # as if the device were faster than the host
    calls.clear()
    del explanation
    assert calls == [], "dropping an output calls nothing"
    explainer.run_device(images[1], **options)
    assert calls == [*expected, PUSHED[1], "cuCtxPopCurrent"]
    gpu.synchronize(theirs)


def test_after_warm_up_only_outputs_are_made(calls, explainer, gpu):
    explainer.warm_up(on_device=True)
    assert set(explainer.backend._lanes) == {
        "least",
        *(f"{n} on the device" for n in ("least", "between", "most")),
    }
    arrays = [Capsules(gpu, (n, 4, 6, 3)) for n in (1, 3, 4)]
    for _ in range(2):
        calls.clear()
        for array in arrays:
            explainer.run_device(array).synchronize()
    assert not {"cuMemAlloc", "cuMemHostAlloc", "cuStreamBeginCapture"} & set(calls)
    assert not {"cuEventCreate", "cuEventDestroy"} & set(calls)


def test_only_memory_of_dropped_outputs_is_reused(explainer, gpu):
    first, array = explainer.run_device(HostArray(gpu)), HostArray(gpu)
    array.values[:] = 99
    second = explainer.run_device(array)
    before = dict(gpu.blocks)
    pointer, mask = second.embedding.pointer, second.mask
    del second  # with its run still enqueued
    third = explainer.run_device(HostArray(gpu))
    assert third.embedding.pointer == pointer
    assert len(gpu.blocks) == len(before) + 2, "the host's array, and a mask: the other one lives"
    third.synchronize()
    assert not np.array_equal(values(third.mask), values(mask))
    assert values(mask) == pytest.approx(np.full((1, 4, 6), 99 / 255))
    explainer.close()
    np.testing.assert_allclose(values(first.embedding).shape, (1, 3))
    assert mask.__cuda_array_interface__["stream"] is None, "the values are there, and nobody need wait"
    first.synchronize()
    del mask, first, third
    with ThreadPoolExecutor(1) as thread:
        thread.submit(gc.collect).result()
    assert sum(block.kind == "device" for block in gpu.blocks.values()) == 3, "only the host's own"


def test_a_reader_during_capture_is_not_captured(explainer, gpu, monkeypatch):
    explanation = explainer.run_device(HostArray(gpu))
    explanation.synchronize()
    computes, failures = IExecutionContext.execute_async_v3, []

    def compute(context: IExecutionContext, stream: int) -> bool:
        if gpu.stream(stream).recording is not None:
            assert stream != explanation.embedding.stream
            with ThreadPoolExecutor(1) as thread:
                failures.append(thread.submit(explanation.embedding.__dlpack__, stream=1).exception())
        return computes(context, stream)

    monkeypatch.setattr(IExecutionContext, "execute_async_v3", compute)
    array = HostArray(gpu, (4, 4, 6, 3))
    check(explainer.run_device(array), array.values)
    assert failures == [None], "one recording, with a reader in it that was not noticed"
    assert len(gpu.streams) == 3, "the default stream, that of the host's lane and that of the path"


def test_memory_dropped_first_is_reused_first(explainer, gpu):
    explanations = [explainer.run_device(HostArray(gpu)) for _ in range(3)]
    places = [explanation.mask.pointer for explanation in explanations]
    for i in (1, 0, 2):
        explanations[i] = None
    again = [explainer.run_device(HostArray(gpu)) for _ in range(3)]
    assert [explanation.mask.pointer for explanation in again] == [places[i] for i in (1, 0, 2)]
    again[-1].synchronize()


@contextmanager
def captured(gpu: Gpu, stream: int) -> Iterator[None]:
    """The host application captures its stream, in which nothing of ours may be."""
    gpu.begin(stream, "THREAD_LOCAL")
    yield
    recorded = gpu.end(stream)
    assert gpu.graphs[recorded] == [], "nothing of ours is inside"
    gpu.graph_destroy(recorded)


def test_outputs_dropped_during_a_capture_are_harmless(explainer, theirs, gpu):
    explanation = explainer.run_device(HostArray(gpu))
    explanation.synchronize()
    with captured(gpu, theirs):
        del explanation
        gc.collect()
    assert gpu.broken == []


@pytest.mark.parametrize("way", ["stream", "interface", "dlpack", "reader"])
def test_run_device_refuses_a_captured_stream(explainer, theirs, gpu, way):
    explanation = explainer.run_device(array := HostArray(gpu))
    explanation.synchronize()
    other, producer = Capsules(gpu), HostArray(gpu)

    def ordered(stream: int) -> object:
        event = gpu.mark_create()
        gpu.mark(event, theirs)
        gpu.wait(stream, event)  # as torch does
        gpu.streams[theirs].recording.clear()  # the event
        del gpu.marks[event]
        return Capsules.__dlpack__(other, stream=stream)

    producer.facts["stream"] = theirs
    capsules = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=ordered)
    ways = {
        "stream": lambda: explainer.run_device(array, stream=theirs),
        "interface": lambda: explainer.run_device(producer),
        "dlpack": lambda: explainer.run_device(capsules),
        "reader": lambda: explanation.mask.__dlpack__(stream=theirs),
    }
    words = f"stream {'' if way == 'dlpack' else hex(theirs)}.*stream capture"
    with captured(gpu, theirs):
        with pytest.raises(InputError, match=words):
            ways[way]()
        assert gpu.is_recording(explanation.mask.stream) == (way == "dlpack")


def test_captures_of_other_threads_are_not_broken(toy, add, gpu):
    add(toy, "toy")
    gpu.stack().append(0xC0)
    arrays, theirs = [HostArray(gpu) for _ in range(3)], gpu.stream_create()
    gpu.begin(theirs, GLOBAL)
    gpu.streams[theirs].thread += 1  # as if another thread had begun
    with Explainer(toy, backend="tensorrt") as explainer:
        for array in arrays:
            explainer.run_device(array).check()
        kept = explainer.run_device(array)
    del kept  # after close(): it is freed
    assert gpu.mode() == GLOBAL, "the thread is in its own mode again"
    gpu.streams[theirs].recording = None
    gpu.stream_destroy(theirs)
    gpu.pop()


def test_images_are_held_until_they_are_read(explainer, gpu):
    explainer.run_device(HostArray(gpu)).synchronize()
    array = HostArray(gpu)
    gone = weakref.ref(array)
    explanation = explainer.run_device(array)
    del array
    explainer.run_device(other := HostArray(gpu))
    assert gone(), "nothing has been read yet"
    gpu.stack().append(0xC0)
    gpu.synchronize(explanation.mask.stream)
    gpu.pop()
    explainer.run_device(other)
    assert not gone()
    gone = weakref.ref(other)
    del other
    explanation.synchronize()
    assert not gone()


def test_images_are_held_after_a_failed_query(explainer, gpu):
    explanation = explainer.run_device(array := HostArray(gpu))
    gone, other, before = weakref.ref(array), HostArray(gpu), len(gpu.marks)
    del array
    gpu.fail["cuEventQuery"] = 907
    with pytest.raises(BackendError, match="cuEventQuery failed"):
        explainer.run_device(other)
    gpu.fail.clear()
    assert gpu.streams[explanation.mask.stream].queue
    assert gone(), "the copy is still to read them"
    explanation.synchronize()
    assert not gone()
    assert len(gpu.marks) == before


def test_readers_on_the_given_stream_keep_order(explainer, theirs, gpu):
    one, other = HostArray(gpu), HostArray(gpu)
    one.values[:], other.values[:] = 10, 20
    found: list[list] = []
    explanation = explainer.run_device(one)
    ours = explanation.mask.stream
    del explanation
    for array in (one, other):
        explanation = explainer.run_device(array, stream=theirs)
        facts = explanation.embedding.__cuda_array_interface__
        gpu.enqueue(
            theirs, lambda f=facts: found.append(on_device(f["data"][0], f["shape"], np.float32).tolist())
        )
        pointer = explanation.embedding.pointer
        del explanation
    assert explainer.run_device(one, stream=theirs).embedding.pointer == pointer, "the memory was the same"
    gpu.synchronize(ours)  # writes the second outputs, but not before the first were read
    gpu.synchronize(theirs)
    assert found == [[[10, 10, 10]], [[20, 20, 20]]]


def test_check_finds_values_that_are_not_finite(toy, add, gpu):
    add(toy, "toy", plan=OVERFLOWS)
    with Explainer(toy, backend="tensorrt") as explainer:
        good, white = HostArray(gpu, (2, 4, 6, 3)), HostArray(gpu, (2, 4, 6, 3))
        white.values[1] = 255
        explainer.run_device(good).check()
        explanation = explainer.run_device(white)
        explainer.close()
        words = r"the mask \(24 of 48 values\) of an explanation \(toy-fp16\)"
        with pytest.raises(BackendError, match=words):
            explanation.check()
    del explanation
    assert gpu.live() == 2, "the host's arrays"


def test_the_order_of_streams(explainer, theirs, gpu):
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


@pytest.mark.parametrize(
    ("kind", "facts", "words"),
    [
        (HostArray, {"typestr": "<f4"}, "type <f4"),
        (HostArray, {"typestr": "|b1"}, "type |b1"),
        (HostArray, {"strides": (72, 18, 1, 6)}, "strides"),
        (HostArray, {"stream": 0}, "stream is 0"),
        (HostArray, {"shape": (1, 6, 4, 3)}, r"\(N, 4, 6, 3\), N from 1 to 4"),
        (HostArray, {"shape": (4, 6, 3)}, r"\(N, 4, 6, 3\)"),
        (HostArray, {"shape": (5, 4, 6, 3)}, "N from 1 to 4"),
        (HostArray, {"data": (4096, False)}, "not memory of a GPU"),
        (Capsules, {"code": 6}, "code, bits, lanes"),
        (Capsules, {"device": (1, 0)}, "kind 1"),
        (Capsules, {"device": (2, 1)}, "device 1.*\n.*device 0.*\n.*device=1"),
        (Capsules, {"strides": (72, 18, 1, 6)}, "strides"),
    ],
)
def test_other_arrays_are_refused(explainer, gpu, kind, facts, words):
    array = kind(gpu)
    array.facts.update(facts)
    with pytest.raises(InputError, match=words):
        explainer.run_device(array)
    asks = kind is Capsules and "device" not in facts
    assert hasattr(array, "asked") == asks, "the device comes first"


def test_strides_of_axes_of_length_one_are_ignored(explainer, gpu):
    array = HostArray(gpu, strides=(999, 18, 3, 1))
    explanation = explainer.run_device(array)
    explanation.synchronize()
    assert values(explanation.embedding) == pytest.approx(array.values.mean((1, 2)), rel=1e-6)


@pytest.mark.parametrize("kind", [HostArray, Capsules])
def test_a_slice_may_begin_anywhere(explainer, gpu, kind):
    array = kind(gpu, (2, 4, 6, 3))
    array.facts.update(shape=SHAPE, data=(array.pointer + 72, False))
    array.pointer += 72
    explanation = explainer.run_device(array)
    explanation.synchronize()
    assert values(explanation.embedding) == pytest.approx(array.values[1:].mean((1, 2)), rel=1e-6)


def test_memory_of_another_context_or_device_is_refused(explainer, gpu):
    array = HostArray(gpu)
    gpu.find(array.pointer).context = 0xAB  # as with pycuda.autoinit
    with pytest.raises(InputError, match="autoprimaryctx"):
        explainer.run_device(array)
    gpu.fail["device"] = 1
    with pytest.raises(InputError, match="an array on device 1"):
        explainer.run_device(array)


def test_arrays_of_the_host_are_refused(explainer, tiny):
    with pytest.raises(InputError, match="an ndarray|kind 1"):
        explainer.run_device(np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match="run_device was given a str"):
        explainer.run_device("photo.jpg")
    fake = FakeBackend(lambda images: (images, images))
    with Explainer(tiny, backend=fake) as host:
        for call in (
            lambda: host.run_device(np.zeros(SHAPE, np.uint8)),
            lambda: host.warm_up(on_device=True),
        ):
            with pytest.raises(BackendError, match="run_device with fake.*\n.*\n.*backend='tensorrt'"):
                call()


def test_streams_of_the_libraries_by_their_names():
    core = SimpleNamespace(__cuda_stream__=lambda: (0, np.int64(78)))  # no int, but int() converts it
    assert stream_handle(core) == 78
    core.__cuda_stream__ = lambda: (1, np.int64(78))
    with pytest.raises(InputError, match="a SimpleNamespace of version 1"):
        stream_handle(core)
    for name in ("handle", "cuda_stream", "ptr"):
        assert stream_handle(SimpleNamespace(**{name: 77})) == 77
    assert stream_handle(0) == 0
    with pytest.raises(InputError, match="stream: a str"):
        stream_handle("default")


def test_failures_leave_nothing_behind(explainer, gpu):
    warm = HostArray(gpu)
    explanations = [explainer.run_device(warm) for _ in range(2)]
    explanations[1].synchronize()
    explanations.clear()
    for call in (COPY, "cuGraphLaunch", "cuEventRecord", "cuStreamWaitEvent"):
        array, before = HostArray(gpu), gpu.live()
        gone = weakref.ref(array)
        gpu.fail[call] = 2
        with pytest.raises(BackendError, match=f"{call} failed"):
            explainer.run_device(array)
        gpu.fail.clear()
        del array
        gc.collect()
        assert not gone(), call
        assert gpu.live() == before, call
    kept = [explainer.run_device(warm) for _ in range(2)]
    before = gpu.live()
    gpu.fail["cuMemAlloc"] = 2
    with pytest.raises(BackendError, match="cuMemAlloc failed"):
        explainer.run_device(warm)
    gpu.fail.clear()
    assert gpu.live() == before
    del kept
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        explainer.run_device(warm)


def test_a_capsule_describes_and_keeps_its_output(explainer, gpu):
    array = HostArray(gpu)
    mask = explainer.run_device(array).mask
    capsule = mask.__dlpack__(stream=-1, max_version=(1, 0), dl_device=(2, 0), copy=False)
    tensor, pointer = tensor_of(capsule), mask.pointer
    assert (tensor.data, tensor.byte_offset, tensor.shape[:3]) == (pointer, 0, [1, 4, 6])
    assert (tensor.device_type, tensor.device_id) == mask.__dlpack_device__() == (2, 0)
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    mask.path.synchronize()
    del mask
    assert explainer.run_device(array).mask.pointer != pointer, "the capsule keeps the memory"
    del tensor, capsule
    assert pointer in {explainer.run_device(array).mask.pointer for _ in range(3)}, "nobody took it"


def test_torch_takes_and_frees_a_capsule_once(torch, explainer, gpu):
    """The memory is really on the CPU, so the device type is corrected before torch reads the capsule."""
    array = HostArray(gpu)
    explanation = explainer.run_device(array)
    explanation.synchronize()
    expected, gone = values(explanation.mask).copy(), weakref.ref(explanation.mask)
    capsule = explanation.mask.__dlpack__(stream=-1)
    tensor_of(capsule).device_type = 1
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    with pytest.raises(ValueError, match="incorrect name"):
        tensor_of(capsule)  # it is used_dltensor now
    del explanation, capsule
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert gone()
    tensors = [tensor]
    del tensor
    with pytest.raises(RuntimeError, match=r"size|shape|mat"):
        tensors.pop() @ torch.zeros(5, 5)  # dropped while the exception is raised
    gc.collect()
    assert not gone()


def test_capsule_readers_find_values_on_their_stream(explainer, theirs, gpu):
    (array := HostArray(gpu)).values[:] = 200
    for stream, reads in ((theirs, theirs), (None, LEGACY), (1, LEGACY)):
        embedding = explainer.run_device(array).embedding
        embedding.__dlpack__(stream=stream)
        found: list[list] = []
        gpu.enqueue(reads, lambda e=embedding, f=found: f.append(values(e).tolist()))
        gpu.synchronize(reads)
        assert found == [[[200, 200, 200]]], stream
        del embedding
    queue = gpu.streams[theirs].queue
    explanation = explainer.run_device(array)
    explanation.embedding.__dlpack__(stream=-1)
    assert queue == []
    explainer.close()
    explanation.embedding.__dlpack__(stream=theirs)
    assert queue == [], "after close() the values are there"
    with pytest.raises(InputError, match="stream 0"):
        explanation.mask.__dlpack__(stream=0)
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            explanation.mask.__dlpack__(**wrong)


def test_close_waits_for_a_reader_ordering_streams(explainer, gpu, monkeypatch):
    explanation = explainer.run_device(HostArray(gpu))
    library, closing = explainer.backend._cuda, threading.Thread(target=explainer.close)
    order = library.order

    def slowly(*arguments: int) -> None:
        closing.start()
        closing.join(0.1)
        assert closing.is_alive(), "it destroyed the stream"
        order(*arguments)

    monkeypatch.setattr(library, "order", slowly)
    explanation.mask.__dlpack__(stream=1)
    closing.join()
    assert explanation.mask.stream is None
    gpu.stack().append(0xC0)
    gpu.synchronize(1)
    gpu.pop()


def test_synchronize_may_finish_after_close(explainer, gpu, monkeypatch):
    explanation = explainer.run_device(HostArray(gpu))
    library, closing = explainer.backend._cuda, threading.Thread(target=explainer.close)
    wait = library.event_synchronize

    def late(event: int) -> None:
        closing.start()
        closing.join()
        wait(event)

    monkeypatch.setattr(library, "event_synchronize", late)
    explanation.synchronize()
    assert explanation.mask.stream is None
    assert not gpu.marks, "the last thread that waited destroys the events"


def test_a_real_capsule_of_torch_is_read(torch):
    """On the CPU, where the same structure describes the tensor; the wrapper claims another device type."""

    def wrapped(tensor: object) -> SimpleNamespace:
        return SimpleNamespace(
            __dlpack_device__=lambda: (2, 0), __dlpack__=lambda stream: tensor.__dlpack__()
        )

    tensor = torch.arange(72, dtype=torch.uint8).reshape(SHAPE)
    source = read(wrapped(tensor), 7, 0)
    assert (source.pointer, source.shape, source.stream) == (tensor.data_ptr(), SHAPE, None)
    assert np.array_equal(on_device(source.pointer, SHAPE, np.uint8), tensor.numpy())
    with pytest.raises(InputError, match="strides"):
        read(wrapped(tensor.transpose(1, 2)), 7, 0)
