"""A stream over a backend that can have two runs under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from runtime import Explainer
from runtime.backends.fake import FakeBackend
from runtime.errors import BackendError, InputError


class Pipelined(FakeBackend):
    """Answers with mean colour and brightness; remembers the order of starts and ends."""

    def __init__(self) -> None:
        super().__init__(lambda images: (images.mean((1, 2), np.float32), images.mean(3, np.float32) / 255))
        self.events: list[str] = []
        self.allowed = threading.Semaphore(1000)
        self.fail_at = 1000

    def submit(self, images: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        number = int(images[0, 0, 0, 0])
        self.events.append(f"start {number}")

        def wait() -> tuple[np.ndarray, np.ndarray]:
            assert self.allowed.acquire(timeout=5)
            if number == self.fail_at:
                raise BackendError(f"run {number} broke", expected="x", cure="y")
            self.events.append(f"end {number}")
            return self.run(images)

        return wait


def frame(number: int) -> np.ndarray:
    return np.full((24, 32, 3), number, np.uint8)


@pytest.fixture
def backend() -> Pipelined:
    return Pipelined()


@pytest.fixture
def explainer(tiny, backend: Pipelined) -> Iterator[Explainer]:
    with Explainer(tiny, backend=backend) as explainer:
        yield explainer


def settled(count: Callable[[], int]) -> int:
    """What `count` says once it has not changed for a while."""
    last = -1
    while last != (now := count()):
        last = now
        time.sleep(0.05)
    return last


def test_in_order_and_none_lost(explainer: Explainer, backend: Pipelined) -> None:
    values = [round(float(e.embedding[0])) for e in explainer.stream(frame(i) for i in range(40))]
    assert values == list(range(40))
    assert [e for e in backend.events if "end" in e] == [f"end {i}" for i in range(40)]
    assert [e for e in backend.events if "start" in e] == [f"start {i}" for i in range(40)]


def test_a_frame_that_is_there_is_started_before_the_one_before_it_ends(
    explainer: Explainer, backend: Pipelined
) -> None:
    backend.allowed = threading.Semaphore(0)
    stream = explainer.stream(frame(i) for i in range(40))
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


def test_a_slow_camera_holds_nothing_back(explainer: Explainer) -> None:
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


def test_three_frames_ahead_and_no_more(explainer: Explainer) -> None:
    taken: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for i in range(100):
            taken.append(i)
            yield frame(i)

    stream = explainer.stream(camera())
    assert settled(lambda: len(taken)) == 0
    for _ in range(3):
        next(stream)
    assert settled(lambda: len(taken)) == 6
    stream.close()


def test_errors_come_where_the_explanation_would_have(explainer: Explainer, backend: Pipelined) -> None:
    stream = explainer.stream([frame(0), frame(1), b"no picture", frame(3)])
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(InputError, match="10 bytes"):
        next(stream)
    backend.fail_at = 2
    stream = explainer.stream(frame(i) for i in range(5))
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(BackendError, match="run 2 broke"):
        next(stream)
    assert not [thread for thread in threading.enumerate() if "nemu-stream" in thread.name]


def test_closing_the_explainer_ends_the_stream(explainer: Explainer) -> None:
    stream = explainer.stream(frame(i) for i in range(5))
    next(stream)
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        list(stream)
