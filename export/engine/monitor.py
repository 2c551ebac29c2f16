"""The progress bar of a TensorRT build, from the phases that the builder reports, and how Ctrl-C stops it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """The share of a build that is done, counted over nested phases; thread-safe.

    Args:
        show: draw a bar on stderr; otherwise only count.
        cancelled: when it is set, the build stops at its next step.
    """

    def __init__(self, *, show: bool, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self.percent = 0.0
        """0 to 100; never decreases."""
        self._bar = tqdm(
            total=100,
            desc="TensorRT",
            disable=not show,
            miniters=0,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # fewer lines in a log
            smoothing=0,  # steps differ by orders of magnitude: use the mean since the start
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, about {remaining} left {postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tick(self) -> None:
        """Redraw the bar, because one step can take minutes."""
        with self._lock:
            self._bar.update(0)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, inside the phase `parent` if that is not None."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._bar.set_postfix_str(name, refresh=False)

    def step(self, name: str) -> bool:
        """A step of a phase is done; False asks the builder to stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done += 1
            self._show()
        return not self._cancelled.is_set()

    def finish(self, name: str) -> None:
        """A phase has ended; its parent's next `step` counts it."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None and not self._cancelled.is_set():
                self._advance(100.0)

    def _show(self) -> None:
        roots = [name for name, phase in self._phases.items() if phase.parent is None]
        if roots:
            self._advance(100.0 * max(self._share(name) for name in roots))

    def _share(self, name: str) -> float:
        """Share of a phase that is done, phases inside it included."""
        phase = self._phases[name]
        inside = [self._share(child) for child, other in self._phases.items() if other.parent == name]
        return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)

    def _advance(self, percent: float) -> None:
        gained = max(0.0, percent - self.percent)
        self.percent += gained
        self._bar.update(gained)


def monitor(trt: ModuleType, progress: Progress) -> Any:
    """A progress monitor of `trt` that reports to `progress`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return progress.step(name)

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    return Monitor()


def interruptible(work: Callable[[], T], cancelled: threading.Event, tick: Callable[[], None]) -> T:
    """Run `work` in a thread and wait for it; Ctrl-C sets `cancelled` and is raised when `work` has ended.

    Python handles signals between lines of the main thread only, so the library is called in another thread.
    `tick` is called every second while it runs.
    """
    with _interrupt_as(cancelled), ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work)
        while not wait([future], timeout=1).done:
            tick()
        return future.result()


@contextmanager
def _interrupt_as(event: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `event` and raises `KeyboardInterrupt` only at the end (nothing in other threads)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if event.is_set():
        raise KeyboardInterrupt
