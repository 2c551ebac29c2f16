"""The report of a step of gpu_check: timed rows, what was skipped and why, and the time that is left."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.interleave import FEWEST_PAIRS, Call, Clock, interleave, ratio
from benchmarks.common.nvml import joules_per_call, no_energy
from benchmarks.common.record import device_name, meta, write
from benchmarks.gpu.steps import STARTED

QUEUED, REPLAYS = 5, 10
"""Calls that keep the device busy while the timed ones are enqueued, and the number of timed ones."""
_ENERGY_SECONDS = 1.5


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that the steps have in common."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("path", type=Path, help="JSON file to write, or to add to")
    p.add_argument("--seconds", type=float, default=5, help="per measurement (%(default)s)")
    p.add_argument("--budget", type=float, default=240, help="seconds for the whole step (%(default)s)")
    return p


class Report:
    """Rows and skipped measurements, written to `path` as they come and added to what is there already.

    Args:
        budget: seconds for the whole step, from the start of this process by `gpu.steps.run`, or from now.
        seconds: for one measurement.
        gpu: the calls run on a GPU; then more calls are made.
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
        """Write the report."""
        write(self._path, self.content)

    def skip(self, what: str, why: str) -> None:
        """Note what was not measured."""
        self.content["skipped"].append({"what": what, "why": why})
        self.save()

    def has_time(self, what: str, seconds: float | None = None) -> bool:
        """Whether there is time for `what`; if not, it is noted as skipped.

        Args:
            seconds: that it takes; None: as long as the longest measurement so far.
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
        """Time the variants in turns and add a row for each; `ratio_to_encoder` if one is named `encoder`.

        Args:
            finish: waits for the work that a call enqueued.  Then `wall_…` is the time from idle to idle by
                the host's clock, one call after the other.  Without it a call ends when its work does, and
                `wall_…` comes from the same samples as `median_ms`.
            energy: measure the energy too; where the GPU has no meter, that is noted as skipped.
        """
        times = interleave(
            variants, rounds=self._most, seconds=self._seconds, warm_up=self._warm_up, clock=clock
        )
        for name, own in times.items():
            walls = own if finish is None else self._walls(variants[name], finish)
            figures = _figures(own, walls, times.get("encoder"), replays=1 if finish is None else REPLAYS)
            self.content["rows"].append({**row, "variant": name, "device": self._device, **figures})
        self.save()
        if energy and finish is not None:
            self._energy(variants, finish, row["batch"])

    def _walls(self, call: Call, finish: Call) -> np.ndarray:
        """Milliseconds of one call after the other, each from idle to idle."""
        return interleave(
            {"call": lambda: (call(), finish())},
            rounds=self._most,
            seconds=self._seconds / 4,
            warm_up=1,
        )["call"]

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
    """The figures of one variant's row; every time in `times` is a mean over `replays` calls."""
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
    """Milliseconds of a call on a device, as a mean over REPLAYS calls.

    The time stamps are enqueued while the device is still busy, so the host's launches are not in the
    interval.  Where launching takes longer than the work itself, it is in the interval, as a caller sees it.

    Args:
        mark: enqueues a time stamp behind the calls.
        between: milliseconds between two time stamps that have been reached.
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
