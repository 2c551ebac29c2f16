"""How long an explanation takes: wall time on this process's threads, after a warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.interleave import wall_clock

TIMED_SEED = 1000
"""Baselines are timed with seeds of their own, so that no run of RELAX is remembered."""


def seconds_per_image(
    explain: Callable[[Tensor], Tensor], x: Tensor, *, slow: bool, rounds: int = 5
) -> dict[str, Any]:
    """Median seconds an image, one image at a time and in one batch of all of x (N, 3, H, W).

    Args:
        slow: seconds an image: two images, one by one, without warm-up; the batch is left null.
    """

    def clock(part: Tensor) -> float:
        return wall_clock(lambda: explain(part)) / 1e3

    threads = {"threads": torch.get_num_threads()}
    if slow:
        singles = [clock(one) for one in x[-2:].split(1)]
        return {"seconds_per_image": statistics.median(singles), "seconds_per_image_batched": None, **threads}
    clock(x[:1])
    singles = [clock(one) for _ in range(rounds) for one in x.split(1)]
    clock(x)
    batches = [clock(x) / len(x) for _ in range(rounds)]
    return {
        "seconds_per_image": statistics.median(singles),
        "seconds_per_image_batched": statistics.median(batches),
        "batch": len(x),
        **threads,
    }
