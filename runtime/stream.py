"""Streams: while one frame runs, the next is prepared and, if the backend can, started."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np

Prepared = TypeVar("Prepared")
Explained = TypeVar("Explained")


def _prepared(frames: Iterator[Any], prepare: Callable[[Any], Prepared]) -> Iterator[Prepared]:
    for frame in frames:
        yield prepare(frame.copy() if isinstance(frame, np.ndarray) else frame)


def stream(
    frames: Iterator[Any],
    *,
    prepare: Callable[[Any], Prepared],
    explain: Callable[[Prepared], Explained],
    launch: Callable[[Prepared], Callable[[], Explained]] | None,
) -> Generator[Explained, None, None]:
    """Explain frames in order, see `runtime.explainer.Explainer.stream`.

    Args:
        frames: read and prepared in a thread of their own.
        prepare: prepares one frame.
        explain: explains one prepared frame, in a second thread.
        launch: starts that and returns a function that waits for the result; None if the backend can have
            one run at a time only.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # 10 ms that other callers need not spend

    launched: list[Callable[[], Explained]] = []

    def run(taken: Future[Prepared | None], following: Future[Prepared | None]) -> Explained | None:
        if (prepared := taken.result()) is None:
            return None
        if launch is None:
            return explain(prepared)
        finish = launched.pop() if launched else launch(prepared)
        # Only a frame that has arrived: a slow camera must not delay the explanation before it.
        if following.done() and not following.exception() and (ahead := following.result()) is not None:
            launched.append(launch(ahead))
        return finish()

    coming = _prepared(frames, prepare)

    def take() -> Prepared | None:
        return next(coming, None)  # None after the last one, and after a failure

    camera, engine = (ThreadPoolExecutor(1, f"nemu-stream-{name}") for name in ("camera", "engine"))
    try:
        taken = deque(camera.submit(take) for _ in range(3 if launch else 2))
        running = engine.submit(run, taken.popleft(), taken[0])
        while (explanation := running.result()) is not None:
            taken.append(camera.submit(take))
            running = engine.submit(run, taken.popleft(), taken[0])
            yield explanation
    finally:
        camera.shutdown(cancel_futures=True)
        engine.shutdown(cancel_futures=True)
