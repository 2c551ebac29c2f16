"""A figure over images, with how many have none; figures over seeds, and which methods are the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """Mean over the images that have the figure."""

    mean: float
    error: float
    """Standard error of the mean."""
    count: int
    """Images in the mean."""
    undefined: int
    """Images left out because the figure is nan for them (a constant map, an empty region)."""

    @property
    def upper(self) -> float:
        """Mean + 2 standard errors."""
        return self.mean + 2 * self.error


def estimate(values: Sequence[float] | NDArray[np.floating[Any]]) -> Estimate:
    """Estimate from one figure per image; the mean is nan over no image, the error over fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    n = len(known)
    return Estimate(
        mean=float(known.mean()) if n else np.nan,
        error=float(known.std(ddof=1) / n**0.5) if n > 1 else np.nan,
        count=n,
        undefined=len(array) - n,
    )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Mean over seeds."""

    mean: float
    spread: float | None
    """Sample standard deviation over seeds; None for one seed."""
    error: float | None
    """Standard error over images (root mean square over seeds, which share the images)."""

    @property
    def noise(self) -> float:
        """Both together: sqrt(error² + spread²); what is not known is 0."""
        return math.hypot(self.error or 0.0, self.spread or 0.0)

    def __format__(self, form: str) -> str:
        """Mean ± the spread over seeds, or the error of one; `ms`: the mean with at least three digits."""
        if form == "ms":
            return milliseconds(self.mean)
        noise = self.error if self.spread is None else self.spread
        return format(self.mean, form) + ("" if noise is None else f" ± {noise:{form}}")


class Seeds(dict[str, Any]):
    """What is known of one method, its number of `seeds` and, for every other key, the figure of its rows."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], **known: Any) -> None:
        super().__init__(known, seeds=len(rows))
        self.rows = rows

    def __missing__(self, key: str) -> Figure | None:
        return figure(self.rows, key)


def groups(rows: Iterable[Mapping[str, Any]], *keys: str) -> list[Seeds]:
    """The rows that are equal in all keys together, in the order of the first of them."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [Seeds(of, **dict(zip(keys, values, strict=True))) for values, of in found.items()]


def milliseconds(value: float) -> str:
    """Milliseconds with at least three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


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
