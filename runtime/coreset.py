"""Few cells that stand for many: the coordinates they are compared in, and how far others are from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ROWS, DIMENSIONS = 1000, 64
"""Cells that are kept, and numbers that describe each: 200 cells are compared with them in 0.3 ms on one core
with AVX-512.  Twice the rows, or half as many numbers again, find hardly more (benchmarks.defects)."""
SHRINKAGE = 0.3
"""Share of the mean variance that is added to each direction's before it is scaled by it."""
CANDIDATES, MEASURED = 40_000, 10_000
"""Cells that the kept ones are chosen from, and whose variance is measured, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coreset:
    """Cells that represent those of a set of pictures."""

    mean: np.ndarray
    """float32 (C,): of all cells."""
    projection: np.ndarray
    """float32 (C, d): features → coordinates; one unit is about how much normal cells vary."""
    rows: np.ndarray
    """float32 (K, d): the cells that were kept."""

    @classmethod
    def of(cls, features: np.ndarray) -> Coreset:
        """Of the cells float32 (n, C): the same ones for the same cells."""
        features = features[np.random.default_rng(0).permutation(len(features))[:CANDIDATES]]
        mean = features.mean(0)
        variance, directions = np.linalg.eigh(_covariance(features[:MEASURED] - mean))
        first = np.argsort(-variance)[:DIMENSIONS]
        spread = np.maximum(variance, 0) + SHRINKAGE * variance.mean() + 1e-12
        projection = (directions[:, first] / np.sqrt(spread[first])).astype(np.float32)
        return cls(mean=mean, projection=projection, rows=_farthest((features - mean) @ projection))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """float32 (C, n) → float32 (n,): how far each cell is from the nearest of those kept."""
        placed = np.ones((self.projection.shape[1] + 1, features.shape[1]), np.float32)
        placed[:-1] = self.projection.T @ features - self._offset
        # ‖r − p‖² = ‖p‖² + (p, 1) · (−2r, ‖r‖²)
        nearest = np.square(placed[:-1]).sum(0) + (placed.T @ self._table).min(1)
        return np.sqrt(np.maximum(nearest, 0))

    @cached_property
    def _offset(self) -> np.ndarray:
        return (self.mean @ self.projection)[:, None]

    @cached_property
    def _table(self) -> np.ndarray:
        return np.concatenate([-2 * self.rows.T, np.square(self.rows).sum(1)[None]])


def _covariance(centred: np.ndarray) -> np.ndarray:
    """float64 (C, C) of cells (n, C)."""
    wide = centred.astype(np.float64)
    return wide.T @ wide / len(wide)


def _farthest(cells: np.ndarray) -> np.ndarray:
    """ROWS of the cells (n, d), each the farthest from all before it; fewer if the rest are copies."""
    lengths = np.square(cells).sum(1)
    nearest = np.full(len(cells), np.inf, np.float32)
    kept, at = list[int](), 0
    while len(kept) < ROWS and nearest[at] > 0:
        kept.append(at)
        np.minimum(nearest, lengths + lengths[at] - 2 * (cells @ cells[at]), out=nearest)
        nearest[at] = 0
        at = int(nearest.argmax())
    return cells[kept]
