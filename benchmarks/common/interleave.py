"""Timing side by side: every call once a round, rounds in random order, ratios over rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]
Clock = Callable[[Call], float]
"""Milliseconds that a call took."""

FEWEST_PAIRS = 200
"""Rounds below which no ratio is reported."""
_RESAMPLES = 2000


def wall_clock(call: Call) -> float:
    """Milliseconds by the host's clock."""
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    seconds: float = float("inf"),
    warm_up: int = 5,
    clock: Clock = wall_clock,
) -> dict[str, np.ndarray]:
    """Time every call once a round, in an order drawn anew each round: milliseconds (rounds,) of each.

    Args:
        rounds: at most this many.
        seconds: no round is begun after them, but five are made in any case.
        warm_up: untimed calls of each, before.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    until = time.monotonic() + seconds
    for turn in range(rounds):
        if turn >= 5 and time.monotonic() > until:
            break
        for name in rng.permutation(list(calls)):
            times[name].append(clock(calls[name]))
    return {name: np.array(values) for name, values in times.items()}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How much longer one call takes than another, over the same rounds."""

    value: float
    """Ratio of the medians."""
    low: float
    high: float
    """95 % bootstrap interval over rounds."""


def ratio(times: np.ndarray, base: np.ndarray) -> Ratio:
    """Ratio of two columns of `interleave`, (rounds,) each; rounds are resampled in pairs."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(base), (_RESAMPLES, len(base)))
    resampled = np.median(times[which], axis=1) / np.median(base[which], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Ratio(value=float(np.median(times) / np.median(base)), low=float(low), high=float(high))


def latency_row(times: np.ndarray, base: np.ndarray | None) -> dict[str, Any]:
    """median, p95, p99 in milliseconds and n; the ratio to `base`, from FEWEST_PAIRS rounds on."""
    median, p95, p99 = (float(q) for q in np.percentile(times, (50, 95, 99)))
    row = {"median_ms": median, "p95_ms": p95, "p99_ms": p99, "n": len(times)}
    if base is None or len(times) < FEWEST_PAIRS:
        return {**row, "ratio_to_encoder": None, "ratio_ci": None}
    found = ratio(times, base)
    return {**row, "ratio_to_encoder": found.value, "ratio_ci": [found.low, found.high]}
