"""Is int8 faster than fp32 on this device?  The package's two CPU graphs, timed in turn."""

from __future__ import annotations

import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.onnxruntime import MODELS

WORTH = 1.15
"""A smaller speed-up is not worth the accuracy that int8 loses."""
_SECONDS = 3.0
_FEWEST = 10


def int8_against_fp32(folder: Path, image: np.ndarray) -> dict[str, Any]:
    """Median times of one image uint8 (H, W, 3), fp32 and int8 in turn, on all CPUs of this process."""
    from export.graph.session import Session  # needs onnx, which `processor` does not

    sessions = [Session(folder / MODELS[precision]) for precision in ("fp32", "int8")]
    times: tuple[list[float], list[float]] = ([], [])
    for session in sessions * 3:  # warm-up
        session(None, image[None])
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until or len(times[0]) < _FEWEST:
        for session, mine in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session(None, image[None])
            mine.append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    low, high = _median_interval(ratios)
    return {
        "device": processor(),
        "fp32_ms": 1e3 * statistics.median(times[0]),
        "int8_ms": 1e3 * statistics.median(times[1]),
        "times_faster": statistics.median(ratios),
        "times_faster_ci": [low, high],
        "pairs": len(ratios),
        "worth_it": low >= WORTH,
    }


def verdict(speed: dict[str, Any]) -> str:
    """A sentence about the measurement."""
    low, high = speed["times_faster_ci"]
    said = "" if speed["worth_it"] else f"NOT shown worth it here ({WORTH}): use fp32 on this device; "
    return (
        f"{said}int8 is {speed['times_faster']:.2f} ({low:.2f} to {high:.2f}) times as fast as fp32 with "
        f"onnxruntime on {speed['device']} ({speed['int8_ms']:.2f} against {speed['fp32_ms']:.2f} ms)"
    )


def _median_interval(ordered: list[float]) -> tuple[float, float]:
    """95 % interval of the median, from the binomial distribution of ranks (normal approximation)."""
    n = len(ordered)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach))]


def processor() -> str:
    """Name and number of this machine's processors, from /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names)} logical CPUs"
