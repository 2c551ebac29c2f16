"""One figure of a method over its seeds, and which methods are the best or too close to it to tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Mean over seeds."""

    mean: float
    spread: float | None
    """Sample standard deviation over seeds; None for one seed."""
    error: float | None
    """Standard error over images (root mean square over seeds, which share the images)."""
    seeds: int

    @property
    def noise(self) -> float:
        """Both together: sqrt(error² + spread²); what is not known is 0."""
        return math.hypot(self.error or 0.0, self.spread or 0.0)

    @property
    def shown(self) -> float | None:
        """The number after ±: the spread of several seeds, or the error of one seed."""
        return self.spread if self.seeds > 1 else self.error


def figure(rows: Sequence[Mapping[str, Any]], key: str) -> Figure | None:
    """`key` and its `key_error` of the rows of one method; None where no row has it."""
    known = [row for row in rows if row.get(key) is not None]
    if not known:
        return None
    values = [float(row[key]) for row in known]
    errors = [row[f"{key}_error"] for row in known if row.get(f"{key}_error") is not None]
    return Figure(
        mean=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        error=math.sqrt(statistics.fmean(e * e for e in errors)) if errors else None,
        seeds=len(values),
    )


def best_and_near(figures: Mapping[str, Figure | None], *, lower: bool) -> tuple[set[str], set[str]]:
    """The best methods (several if equal), and those that differ from it by less than the noise.

    Noise: 2 sqrt(noise_a² + noise_b²).  The images are shared but taken as independent, which errs towards
    calling methods alike.

    Args:
        lower: less is better.
    """
    known = {name: f for name, f in figures.items() if f is not None}
    if not known:
        return set(), set()
    champion = (min if lower else max)(known.values(), key=lambda f: f.mean)
    best = {name for name, f in known.items() if f.mean == champion.mean}
    near = {
        name
        for name, f in known.items()
        if name not in best and abs(f.mean - champion.mean) < 2 * math.hypot(f.noise, champion.noise)
    }
    return best, near
