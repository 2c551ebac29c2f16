"""Frames one after another: the next is prepared, and where the backend can even started, while one runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np

Prepared = TypeVar("Prepared")
Explained = TypeVar("Explained")
_END: Any = object()


def stream(
    frames: Iterator[Any],
    *,
    prepare: Callable[[Any], Prepared],
    explain: Callable[[Prepared], Explained],
    launch: Callable[[Prepared], Callable[[], Explained]] | None,
) -> Generator[Explained, None, None]:
    """See `runtime.explainer.Explainer.stream`.

    Args:
        frames: read and prepared in a thread of their own.
        prepare: one frame.
        explain: what was prepared, in a second thread.
        launch: starts that, and returns what waits for its end; None if the backend runs one at a time.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # 10 ms that other callers need not spend

    ended = False
    launched: list[Callable[[], Explained]] = []

    def take() -> Prepared | None:
        nonlocal ended
        if ended:
            return None
        ended = True  # stays so at the end, and after a failure
        if (frame := next(frames, _END)) is _END:
            return None
        prepared = prepare(frame.copy() if isinstance(frame, np.ndarray) else frame)
        ended = False
        return prepared

    def run(taken: Future[Prepared | None], following: Future[Prepared | None]) -> Explained | None:
        if (prepared := taken.result()) is None:
            return None
        if launch is None:
            return explain(prepared)
        finish = launched.pop() if launched else launch(prepared)
        # Only what is there already: a slow camera must not hold back the explanation before it.
        if following.done() and not following.exception() and (ahead := following.result()) is not None:
            launched.append(launch(ahead))
        return finish()

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
