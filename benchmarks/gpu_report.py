"""What the steps of gpu_check share: rows timed in turns, what was skipped and why, clocks, time left."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.energy import joules_per_call, no_energy
from benchmarks.gpu_process import STARTED
from benchmarks.interleave import FEWEST_PAIRS, Call, ratio, wall_clock
from benchmarks.record import device_name, meta, write

Clock = Callable[[Call], float]
"""Milliseconds of a call."""
QUEUED, REPLAYS = 5, 10
"""Calls that keep the device busy while the timed ones are enqueued, and the timed ones."""
_ENERGY_SECONDS = 1.5


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that the steps have in common."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("path", type=Path, help="JSON file to write, or to add to")
    p.add_argument("--seconds", type=float, default=5, help="per measurement (%(default)s)")
    p.add_argument("--budget", type=float, default=240, help="seconds that all of them are to end in")
    return p


class Report:
    """Rows and what was skipped, written to `path` as they come; added to what an earlier step left there.

    Args:
        budget: seconds, from when `gpu_process` started this process or from now, that all is to end in.
        seconds: of one measurement.
        gpu: whether the calls run on one; then there are more of them.
    """

    def __init__(self, path: Path, *, budget: float, seconds: float, gpu: bool) -> None:
        self._path, self._seconds = path, seconds
        self._last, spent = time.monotonic(), time.time() - float(os.environ.get(STARTED, time.time()))
        self._until, self._longest = self._last + budget - spent, 0.0
        self._most, self._warm_up = (1000, 20) if gpu else (20, 1)
        self._device = device_name()
        self.content: dict[str, Any] = {"meta": meta(), "rows": [], "skipped": []}
        if path.is_file():
            self.content |= json.loads(path.read_text())
        self.save()

    def save(self) -> None:
        """Write what there is."""
        write(self._path, self.content)

    def skip(self, what: str, why: str) -> None:
        """Note what was not measured."""
        self.content["skipped"].append({"what": what, "why": why})
        self.save()

    def has_time(self, what: str, seconds: float | None = None) -> bool:
        """Whether there is time for `what`; otherwise it is noted as skipped.

        Args:
            seconds: that it takes; None: as long as the longest so far.
        """
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        if now + (self._longest if seconds is None else seconds) < self._until:
            return True
        self.skip(what, "the time of this step was used up")
        return False

    def compare(
        self,
        variants: dict[str, Call],
        clock: Clock,
        *,
        finish: Call | None = None,
        energy: bool = False,
        **row: Any,
    ) -> None:
        """Time the variants in turns, and add a row for each; `ratio_to_encoder` if `encoder` is one.

        Args:
            finish: waits for what a call enqueued; then `wall_…` is that, by the host's clock, one call after
                the other.  Without it a call ends when its work does, and `wall_…` is of the same samples.
            energy: measure that as well; `joules_per_frame` is None where there is none, and why is noted.
        """
        for call in variants.values():
            for _ in range(self._warm_up):
                call()
        samples: dict[str, list[float]] = {name: [] for name in variants}
        until = time.monotonic() + self._seconds
        for turn in range(self._most):
            if turn >= 5 and time.monotonic() > until:
                break
            for name, call in variants.items():
                samples[name].append(clock(call))
        times = {name: np.array(values) for name, values in samples.items()}
        for name, own in times.items():
            walls = own if finish is None else self._walls(variants[name], finish)
            figures = _figures(own, walls, times.get("encoder"), replays=1 if finish is None else REPLAYS)
            self.content["rows"].append({**row, "variant": name, "device": self._device, **figures})
        self.save()
        if energy and finish is not None:
            self._energy(variants, finish, row["batch"])

    def _walls(self, call: Call, finish: Call) -> np.ndarray:
        """Milliseconds of one call after the other, from idle to idle."""
        finish()
        until = time.monotonic() + self._seconds / 4
        walls: list[float] = []
        while len(walls) < 5 or (len(walls) < self._most and time.monotonic() < until):
            walls.append(wall_clock(lambda: (call(), finish())))
        return np.array(walls)

    def _energy(self, variants: dict[str, Call], finish: Call, batch: int) -> None:
        if why := no_energy():
            self.skip("energy per frame", why)
            return
        rows = self.content["rows"][-len(variants) :]
        for row, call in zip(rows, variants.values(), strict=True):
            what = f"energy per frame of {row['backend']}, {row['variant']}, batch {batch}"
            if not self.has_time(what, 2 * _ENERGY_SECONDS):
                return
            calls = max(10, round(1e3 * _ENERGY_SECONDS / row["median_ms"]))
            joules = joules_per_call(call, calls=calls, finish=finish)
            row["joules_per_frame"] = None if joules is None else joules / batch
            self.save()


def _figures(
    times: np.ndarray, walls: np.ndarray, encoder: np.ndarray | None, *, replays: int
) -> dict[str, Any]:
    """What a row says of one variant; every time is a mean over `replays`."""
    against = None if encoder is None else ratio(times, encoder)
    enough = len(times) * replays >= FEWEST_PAIRS
    return {
        "median_ms": float(np.median(times)),
        "wall_median_ms": float(np.median(walls)),
        "wall_p99_ms": float(np.percentile(walls, 99)),
        "ratio_to_encoder": against and against.value,
        "ratio_ci": [against.low, against.high] if against and enough else None,
        "n": len(times),
    }


def device_clock(
    call: Call, *, mark: Callable[[], Any], between: Callable[[Any, Any], float], finish: Call
) -> float:
    """Milliseconds of a call on a device, a mean of REPLAYS.

    The marks lie in a queue that is already busy, so that the host's launches are not in the interval (but
    where they take longer than the work itself: then that is what a caller sees, too).

    Args:
        mark: enqueues a time stamp behind the calls.
        between: milliseconds from one time stamp to another, both of which have happened.
        finish: waits for everything that was enqueued.
    """
    for _ in range(QUEUED):
        call()
    begin = mark()
    for _ in range(REPLAYS):
        call()
    end = mark()
    finish()
    return between(begin, end) / REPLAYS
