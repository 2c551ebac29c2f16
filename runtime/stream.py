"""Streams: while one frame runs, the next is prepared and, if the backend can, started."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

Prepared = TypeVar("Prepared")
Explained = TypeVar("Explained")
_END: Any = object()


class _Camera(Generic[Prepared]):
    """Takes frames one by one and prepares them; None after the last one and after a failure."""

    def __init__(self, frames: Iterator[Any], prepare: Callable[[Any], Prepared]) -> None:
        self._frames = frames
        self._prepare = prepare
        self._ended = False

    def take(self) -> Prepared | None:
        if self._ended:
            return None
        self._ended = True  # unless this frame can be prepared
        if (frame := next(self._frames, _END)) is _END:
            return None
        prepared = self._prepare(frame.copy() if isinstance(frame, np.ndarray) else frame)
        self._ended = False
        return prepared


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

    take = _Camera(frames, prepare).take
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
