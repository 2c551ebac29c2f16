"""What the steps of gpu_check share: rows timed in turns, what was skipped and why, clocks, time left."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.energy import joules_per_call
from benchmarks.interleave import FEWEST_PAIRS, Call, ratio
from benchmarks.record import device_name, meta, write

Clock = Callable[[Call], tuple[float, float]]
"""Milliseconds of a call: by the device's clock where there is one, and by the host's."""
_ENERGY_SECONDS = 1.5


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that the steps have in common."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("path", type=Path, help="JSON file to write")
    p.add_argument("--model", default="resnet50")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--seconds", type=float, help="per measurement")
    p.add_argument("--budget", type=float, default=240, help="seconds after which no measurement is begun")
    return p


class Report:
    """Rows and what was skipped, written to `path` as they come.

    Args:
        budget: seconds from now after which nothing more is begun.
        seconds: of one measurement; default 5 on a GPU, 2 on a CPU.
    """

    def __init__(self, path: Path, *, budget: float, seconds: float | None = None) -> None:
        self.gpu = torch.cuda.is_available()
        self._path, self._until = path, time.monotonic() + budget
        self._seconds = seconds or (5.0 if self.gpu else 2.0)
        self._most, self._warm_up = (1000, 20) if self.gpu else (20, 1)
        self._device = torch.cuda.get_device_name() if self.gpu else device_name()
        self.content: dict[str, Any] = {"meta": meta(), "rows": [], "skipped": []}
        self.save()

    def save(self) -> None:
        """Write what there is."""
        write(self._path, self.content)

    def skip(self, what: str, why: str) -> None:
        """Note what was not measured."""
        self.content["skipped"].append({"what": what, "why": why})
        self.save()

    def has_time(self, what: str) -> bool:
        """Whether there is time for `what`; otherwise it is noted as skipped."""
        if time.monotonic() < self._until:
            return True
        self.skip(what, "the time of this step was used up")
        return False

    def compare(self, variants: dict[str, Call], clock: Clock, *, energy: bool = False, **row: Any) -> None:
        """Time the variants in turns, and add a row for each; `ratio_to_encoder` if `encoder` is one.

        Args:
            energy: measure that as well, back to back; `joules_per_frame` is None where NVML has none.
        """
        for call in variants.values():
            for _ in range(self._warm_up):
                call()
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        until = time.monotonic() + self._seconds
        for turn in range(self._most):
            if turn >= 5 and time.monotonic() > until:
                break
            for name, call in variants.items():
                samples[name].append(clock(call))
        encoder = np.array(samples["encoder"])[:, 0] if "encoder" in samples else None
        for name, pairs in samples.items():
            times, walls = np.array(pairs).T
            figures = self._figures(times, walls, encoder)
            if energy:
                calls = max(10, round(1e3 * _ENERGY_SECONDS / figures["median_ms"]))
                joules = joules_per_call(variants[name], calls=calls, finish=torch.cuda.synchronize)
                figures["joules_per_frame"] = None if joules is None else joules / row["batch"]
            self.content["rows"].append({**row, "variant": name, "device": self._device, **figures})
        self.save()

    @staticmethod
    def _figures(times: np.ndarray, walls: np.ndarray, encoder: np.ndarray | None) -> dict[str, Any]:
        median, p95, p99 = (float(np.percentile(times, q)) for q in (50, 95, 99))
        against = None if encoder is None else ratio(times, encoder)
        return {
            "median_ms": median,
            "p95_ms": p95,
            "p99_ms": p99,
            "ratio_to_encoder": against and against.value,
            "ratio_ci": [against.low, against.high] if against and len(times) >= FEWEST_PAIRS else None,
            "wall_median_ms": float(np.median(walls)),
            "n": len(times),
        }


def event_clock(call: Call) -> tuple[float, float]:
    """Milliseconds by CUDA events, and by the host's clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    started = time.perf_counter()
    begin.record()
    call()
    end.record()
    end.synchronize()
    wall = 1e3 * (time.perf_counter() - started)
    return begin.elapsed_time(end), wall


def wall_clock(call: Call) -> tuple[float, float]:
    """Milliseconds by the host's clock, twice."""
    started = time.perf_counter()
    call()
    wall = 1e3 * (time.perf_counter() - started)
    return wall, wall
