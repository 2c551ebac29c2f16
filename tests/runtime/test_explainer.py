"""Explainer: pictures of all kinds through a backend, in order, one by one, in batches and as a stream."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer, Explanation
from runtime.backends.fake import FakeBackend
from runtime.errors import BackendError, InputError, PackageError

PICTURES = [
    np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
    for i, shape in enumerate([(24, 32, 3), (50, 20, 3), (7, 90, 3), (24, 32, 3), (300, 200, 3), (1, 1, 3)])
]


class Recorder(FakeBackend):
    """Answers with mean colour and brightness; remembers what it saw."""

    def __init__(self, max_batch: int = 4) -> None:
        self.batches: list[int] = []

        def function(images):
            self.batches.append(len(images))
            scaled = images.astype(np.float32) / 255
            return scaled.mean((1, 2)), scaled.mean(3)

        super().__init__(function, max_batch=max_batch)


@pytest.fixture
def backend() -> Recorder:
    return Recorder()


@pytest.fixture
def explainer(tiny, backend):
    with Explainer(tiny, backend=backend) as explainer:
        yield explainer


def same(one: Explanation, other: Explanation) -> bool:
    return np.array_equal(one.embedding, other.embedding) and np.array_equal(one.mask, other.mask)


def test_a_photograph_through_the_real_backend(package_path, tmp_path):
    bright = np.zeros((300, 200), bool)
    bright[200:275, 25:100] = True
    Image.fromarray(bright.astype(np.uint8) * 255).save(tmp_path / "photo.png")
    with Explainer(package_path) as explainer:
        explanation = explainer(tmp_path / "photo.png")
        assert explainer.backend.name == "onnxruntime"
        assert explainer.embedding_id == "tiny-mean-fp32" == explanation.embedding_id
        assert explainer.manifest.encoder.id == "tiny"
    assert explanation.embedding.shape == (3,)
    assert explanation.mask.shape == (300, 200)
    assert np.array_equal(explanation.image[..., 0] > 0, bright)
    found = explanation.mask > 0.5  # the tiny graph's mask is brightness
    assert (found & bright).sum() > 0.8 * (found | bright).sum()
    assert set(explanation.timing) == {"preprocess", "run", "batch"}
    assert all(value > 0 for value in explanation.timing.values())


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_cut_into_batches_and_keeps_its_order(explainer, backend, kind):
    together = explainer(kind(PICTURES))
    assert backend.batches == [4, 2]
    alone = [explainer(picture) for picture in PICTURES]
    assert all(map(same, together, alone))
    assert [e.mask.shape for e in together] == [p.shape[:2] for p in PICTURES]
    assert [e.timing["batch"] for e in together] == [4, 4, 4, 4, 2, 2]


def test_an_array_with_four_axes_is_a_batch(explainer):
    batch = np.stack([PICTURES[0], PICTURES[3]])
    assert all(map(same, explainer(batch), [explainer(batch[0]), explainer(batch[1])]))


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4, 4, 3), np.uint8)])
def test_nothing_is_refused(explainer, nothing):
    with pytest.raises(InputError, match="no images"):
        explainer(nothing)


def test_in_a_list_the_bad_picture_is_named(explainer):
    with pytest.raises(InputError, match=r"images\[1\]: an array float32"):
        explainer([PICTURES[0], PICTURES[0].astype(np.float32)])


def test_channel_order(tiny, backend):
    with Explainer(tiny, backend=backend, channel_order="bgr") as explainer:
        explanation = explainer(PICTURES[0])
    assert np.array_equal(explanation.image, PICTURES[0][..., ::-1])
    assert np.allclose(explanation.embedding, PICTURES[0][..., ::-1].mean((0, 1)) / 255, atol=1e-6)
    with pytest.raises(InputError, match="'rgb' or 'bgr'"):
        Explainer(tiny, backend=backend, channel_order="rbg")


def test_a_crop_leaves_the_rest_at_zero(with_input, backend):
    with Explainer(with_input(resize="crop", crop_pct=0.875), backend=backend) as explainer:
        explanation = explainer(np.full((40, 200, 3), 255, np.uint8))
    left, top, right, bottom = explanation.valid
    assert 0 < left < right < 200
    inside = explanation.mask[top:bottom, left:right]
    assert np.allclose(inside, 1)
    assert explanation.mask.sum() == pytest.approx(inside.sum())


def test_what_is_degraded_is_in_the_timing(tiny, backend):
    backend.degraded = "no CUDA graph"
    assert Explainer(tiny, backend=backend)(PICTURES[0]).timing["degraded"] == "no CUDA graph"


def test_close_is_final_and_may_be_repeated(tiny, backend):
    explainer = Explainer(tiny, backend=backend)
    explainer.close()
    explainer.close()
    assert backend.closed
    for use in (lambda: explainer(PICTURES[0]), lambda: explainer(PICTURES), lambda: explainer.stream([])):
        with pytest.raises(BackendError, match="closed"):
            use()


def test_a_backend_that_returns_too_little_is_an_error(tiny):
    short = FakeBackend(lambda images: (np.zeros((1, 3), np.float32), np.zeros((1, 24, 32), np.float32)))
    with pytest.raises(BackendError, match="1 embeddings and 1 masks"):
        Explainer(tiny, backend=short)([PICTURES[0], PICTURES[1]])


def test_no_package(tmp_path):
    with pytest.raises(PackageError, match="holds no"):
        Explainer(tmp_path / "none.nemu")


def test_stream_gives_what_single_calls_give_in_order(explainer):
    streamed = list(explainer.stream(iter(PICTURES)))
    assert len(streamed) == len(PICTURES)
    assert all(map(same, streamed, [explainer(picture) for picture in PICTURES]))
    assert list(explainer.stream([])) == []


def test_stream_reads_two_frames_ahead_and_no_more(explainer):
    taken = []

    def camera():
        for i in range(100):
            taken.append(i)
            yield PICTURES[0]

    stream = explainer.stream(camera())
    time.sleep(0.05)
    assert taken == [], "lazy: nothing happens before the first is asked for"
    for _ in range(3):
        next(stream)
    time.sleep(0.05)
    assert len(taken) == 5
    stream.close()
    assert len(taken) == 5
    assert not [thread for thread in threading.enumerate() if "nemu-stream" in thread.name]


def test_stream_prepares_the_next_frame_while_one_runs(tiny):
    """Camera and backend wait for each other; one after the other, neither would ever be served."""
    running, taking = threading.Event(), threading.Event()
    overlapped = []

    def function(images):
        running.set()
        overlapped.append(taking.wait(5))
        return np.zeros((1, 3), np.float32), np.zeros((1, 24, 32), np.float32)

    def camera():
        yield PICTURES[0]
        assert running.wait(5)
        taking.set()
        yield PICTURES[1]

    with Explainer(tiny, backend=FakeBackend(function)) as explainer:
        assert len(list(explainer.stream(camera()))) == 2
    assert overlapped == [True, True]


def test_stream_runs_the_next_frame_while_the_caller_works(tiny, backend):
    with Explainer(tiny, backend=backend) as explainer:
        stream = explainer.stream(iter(PICTURES))
        next(stream)
        until = time.monotonic() + 5
        while len(backend.batches) < 2 and time.monotonic() < until:
            time.sleep(0.001)  # the caller's work
        assert len(backend.batches) == 2
        time.sleep(0.05)
        assert len(backend.batches) == 2, "one ahead, no more"
        stream.close()


def test_while_a_stream_is_open_its_caller_may_explain_another_picture(tiny):
    inside = []

    def function(images):
        inside.append(1)
        time.sleep(0.005)
        assert len(inside) == 1, "a backend is used from one thread at a time"
        inside.pop()
        return np.zeros((1, 3), np.float32), np.zeros((1, 24, 32), np.float32)

    with Explainer(tiny, backend=FakeBackend(function)) as explainer:
        for _ in explainer.stream(PICTURES):
            explainer(PICTURES[0])


def test_closing_the_explainer_ends_its_stream_after_the_run(tiny, backend):
    explainer = Explainer(tiny, backend=backend)
    stream = explainer.stream(iter(PICTURES))
    next(stream)
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)
    assert not [thread for thread in threading.enumerate() if "nemu-stream" in thread.name]


def test_after_a_failure_the_stream_reads_no_further(explainer):
    class Camera:
        taken = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.taken += 1
            if self.taken == 2:
                raise RuntimeError("the cable")
            return PICTURES[0]

    camera = Camera()
    stream = explainer.stream(camera)
    next(stream)
    with pytest.raises(RuntimeError, match="the cable"):
        next(stream)
    assert camera.taken == 2


def test_stream_survives_a_camera_that_reuses_its_buffer(explainer):
    buffer = np.empty_like(PICTURES[0])

    def camera():
        for value in range(6):
            buffer[:] = value * 40
            yield buffer

    values = [(int(e.image[0, 0, 0]), round(float(e.embedding[0]) * 255)) for e in explainer.stream(camera())]
    assert values == [(v, v) for v in range(0, 240, 40)]


def test_stream_raises_where_the_explanation_would_have_come(explainer):
    def camera():
        yield PICTURES[0]
        yield PICTURES[1]
        raise RuntimeError("the cable")

    stream = explainer.stream(camera())
    next(stream)
    next(stream)
    with pytest.raises(RuntimeError, match="the cable"):
        next(stream)
    stream = explainer.stream([PICTURES[0], b"no picture", PICTURES[1]])
    next(stream)
    with pytest.raises(InputError, match="10 bytes"):
        next(stream)


def test_stream_of_a_failing_backend_raises_and_stops_its_worker(tiny):
    def fail(images):
        raise BackendError("broke", expected="x", cure="y")

    with Explainer(tiny, backend=FakeBackend(fail)) as explainer, pytest.raises(BackendError, match="broke"):
        list(explainer.stream(PICTURES))
    assert not [thread for thread in threading.enumerate() if "nemu-stream" in thread.name]


def test_warm_up_is_one_run_where_the_backend_knows_nothing_better(explainer, backend):
    explainer.warm_up()
    assert backend.batches == [1]
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        explainer.warm_up()
