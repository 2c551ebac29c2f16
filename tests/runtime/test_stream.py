"""Streams over both kinds of backend: one run at a time, and two runs under way."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from runtime import Explainer
from runtime.backends.fake import FakeBackend, Outputs
from runtime.errors import BackendError, InputError


class Plain(FakeBackend):
    """Answers with mean colour and brightness; remembers starts and ends; fails at one frame."""

    ahead = 2

    def __init__(self) -> None:
        super().__init__(lambda images: (images.mean((1, 2), np.float32), images.mean(3, np.float32) / 255))
        self.events: list[str] = []
        self.fail_at = 1000
        self.inside = 0

    def run(self, images: np.ndarray) -> Outputs:
        self.events.append(f"start {images[0, 0, 0, 0]}")
        return self.finish(images)

    def finish(self, images: np.ndarray) -> Outputs:
        number = images[0, 0, 0, 0]
        if number == self.fail_at:
            raise BackendError(f"run {number} broke", expected="x", cure="y")
        self.inside += 1
        time.sleep(0.001)
        assert self.inside == 1, "a backend is used from one thread at a time"
        self.inside -= 1
        self.events.append(f"end {number}")
        return super().run(images)


class Pipelined(Plain):
    """Can have two runs under way."""

    ahead = 3

    def __init__(self) -> None:
        super().__init__()
        self.allowed = threading.Semaphore(1000)

    def submit(self, images: np.ndarray) -> Callable[[], Outputs]:
        self.events.append(f"start {images[0, 0, 0, 0]}")

        def wait() -> Outputs:
            assert self.allowed.acquire(timeout=5)
            return self.finish(images)

        return wait


def frame(number: int) -> np.ndarray:
    return np.full((24, 32, 3), number, np.uint8)


def frames(n: int) -> Iterator[np.ndarray]:
    return (frame(i) for i in range(n))


@pytest.fixture(params=[Plain, Pipelined])
def explainer(tiny, request: pytest.FixtureRequest) -> Iterator[Explainer]:
    with Explainer(tiny, backend=request.param()) as explainer:
        yield explainer


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if "nemu-stream" in thread.name]


def settled(count: Callable[[], int]) -> int:
    """The value of `count` once it has not changed for a while."""
    last = -1
    while last != (now := count()):
        last = now
        time.sleep(0.05)
    return last


def test_all_frames_are_explained_in_order(explainer: Explainer) -> None:
    found = list(explainer.stream(frames(40)))
    assert [round(float(e.embedding[0])) for e in found] == list(range(40))
    for event in ("start", "end"):
        seen = [e for e in explainer.backend.events if event in e]
        assert seen == [f"{event} {i}" for i in range(40)]
    assert list(explainer.stream([])) == []


def test_a_stream_gives_what_single_calls_give(explainer: Explainer) -> None:
    """Also while the caller makes such calls."""
    images = [np.random.default_rng(i).integers(0, 256, (7 * i + 1, 60, 3), np.uint8) for i in range(6)]
    for streamed, image in zip(explainer.stream(iter(images)), images, strict=True):
        single = explainer(image)
        assert np.array_equal(streamed.embedding, single.embedding)
        assert np.array_equal(streamed.mask, single.mask)


def test_frames_are_read_lazily_and_few_ahead(explainer: Explainer) -> None:
    taken: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for i in range(100):
            taken.append(i)
            yield frame(i)

    stream = explainer.stream(camera())
    assert settled(lambda: len(taken)) == 0, "nothing happens before the first is asked for"
    for _ in range(3):
        next(stream)
    expected = 3 + explainer.backend.ahead
    assert settled(lambda: len(taken)) == expected
    stream.close()
    assert len(taken) == expected


def test_the_next_frame_is_prepared_while_one_runs(tiny) -> None:
    """Camera and backend wait for each other, so that a stream without overlap would not end."""
    running, taking = threading.Event(), threading.Event()
    overlapped = []

    def function(images: np.ndarray) -> Outputs:
        running.set()
        overlapped.append(taking.wait(5))
        return np.zeros((1, 3), np.float32), np.zeros((1, 24, 32), np.float32)

    def camera() -> Iterator[np.ndarray]:
        yield frame(0)
        assert running.wait(5)
        taking.set()
        yield frame(1)

    with Explainer(tiny, backend=FakeBackend(function)) as explainer:
        assert len(list(explainer.stream(camera()))) == 2
    assert overlapped == [True, True]


@pytest.mark.parametrize("explainer", [Plain], indirect=True)
def test_one_frame_runs_while_the_caller_works(explainer: Explainer) -> None:
    stream = explainer.stream(frames(6))
    next(stream)
    assert settled(lambda: "".join(explainer.backend.events).count("end")) == 2, "one ahead, no more"
    stream.close()


@pytest.mark.parametrize("explainer", [Pipelined], indirect=True)
def test_a_frame_starts_before_the_previous_one_ends(explainer: Explainer) -> None:
    backend = explainer.backend
    backend.allowed = threading.Semaphore(0)
    stream = explainer.stream(frames(40))
    first = threading.Thread(target=lambda: next(stream))
    first.start()
    settled(lambda: len(backend.events))
    for _ in range(4):
        backend.allowed.release()
        settled(lambda: len(backend.events))
    first.join()
    assert backend.events.index("start 1") < backend.events.index("end 1")
    backend.allowed = threading.Semaphore(1000)
    assert len(list(stream)) == 39
    overlaps = sum(
        backend.events.index(f"start {i + 1}") < backend.events.index(f"end {i}") for i in range(1, 39)
    )
    assert overlaps > 0


def test_a_slow_camera_delays_no_explanation(explainer: Explainer) -> None:
    """The second frame comes only after the explanation of the first was seen."""
    seen = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield frame(0)
        assert seen.wait(5)
        yield frame(1)

    stream = explainer.stream(camera())
    assert round(float(next(stream).embedding[0])) == 0
    seen.set()
    assert round(float(next(stream).embedding[0])) == 1


def failing_camera() -> Iterator[np.ndarray]:
    yield from frames(2)
    raise RuntimeError("the cable")


@pytest.mark.parametrize(
    ("camera", "fail_at", "error", "words"),
    [
        (failing_camera, 1000, RuntimeError, "the cable"),
        (lambda: [frame(0), frame(1), b"no picture", frame(3)], 1000, InputError, "10 bytes"),
        (lambda: frames(5), 2, BackendError, "run 2 broke"),
    ],
)
def test_errors_come_in_place_of_the_explanation(explainer, camera, fail_at, error, words) -> None:
    explainer.backend.fail_at = fail_at
    stream = explainer.stream(camera())
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(error, match=words):
        next(stream)


def test_a_failed_camera_is_read_no_further(explainer: Explainer) -> None:
    taken: list[int] = []

    def shoot(number: int) -> np.ndarray:
        taken.append(number)
        if number == 1:
            raise RuntimeError("the cable")
        return frame(0)

    stream = explainer.stream(map(shoot, itertools.count()))  # unlike a generator, `map` could go on
    next(stream)
    with pytest.raises(RuntimeError, match="the cable"):
        next(stream)
    assert taken == [0, 1]


def test_closing_the_explainer_ends_the_stream(explainer: Explainer) -> None:
    stream = explainer.stream(frames(5))
    next(stream)
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)


def test_a_camera_may_reuse_its_buffer(explainer: Explainer) -> None:
    buffer = np.empty((24, 32, 3), np.uint8)

    def camera() -> Iterator[np.ndarray]:
        for value in range(6):
            buffer[:] = value * 40
            yield buffer

    values = [(int(e.image[0, 0, 0]), round(float(e.embedding[0]))) for e in explainer.stream(camera())]
    assert values == [(v, v) for v in range(0, 240, 40)]
