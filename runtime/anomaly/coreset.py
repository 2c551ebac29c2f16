"""Coreset: a few cells that represent many, and the distances of other cells to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ROWS, DIMENSIONS = 1000, 64
"""Number of kept cells, and of coordinates of each.  Comparing 200 cells with them takes 0.3 ms on one core
with AVX-512.  2000 rows, or 96 dimensions, find hardly more defects (python -m benchmarks.defects)."""
SHRINKAGE = 0.3
"""Share of the mean variance that is added to the variance of each direction before scaling."""
CANDIDATES, MEASURED = 40_000, 10_000
"""Most cells that the kept ones are chosen from, and most cells whose variance is measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coreset:
    """Cells that represent the cells of a set of images."""

    mean: np.ndarray
    """float32 (C,): mean features of all cells."""
    projection: np.ndarray
    """float32 (C, d): features → coordinates; one unit is about the variation of normal cells."""
    rows: np.ndarray
    """float32 (K, d): coordinates of the kept cells."""

    @classmethod
    def of(cls, features: np.ndarray) -> Coreset:
        """Choose from cells float32 (n, C); deterministic."""
        features = features[np.random.default_rng(0).permutation(len(features))[:CANDIDATES]]
        mean = features.mean(0)
        variance, directions = np.linalg.eigh(_covariance(features[:MEASURED] - mean))
        first = np.argsort(-variance)[:DIMENSIONS]
        spread = np.maximum(variance, 0) + SHRINKAGE * variance.mean() + 1e-12
        projection = (directions[:, first] / np.sqrt(spread[first])).astype(np.float32)
        return cls(mean=mean, projection=projection, rows=_farthest((features - mean) @ projection))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Distance of each cell to the nearest kept cell: float32 (C, n) → float32 (n,)."""
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
    """Covariance float64 (C, C) of centred cells (n, C)."""
    wide = centred.astype(np.float64)
    return wide.T @ wide / len(wide)


def _farthest(cells: np.ndarray) -> np.ndarray:
    """Choose ROWS of the cells (n, d), each the farthest from those before it; copies are left out."""
    lengths = np.square(cells).sum(1)
    nearest = np.full(len(cells), np.inf, np.float32)
    kept, at = list[int](), 0
    while len(kept) < ROWS and nearest[at] > 0:
        kept.append(at)
        np.minimum(nearest, lengths + lengths[at] - 2 * (cells @ cells[at]), out=nearest)
        nearest[at] = 0
        at = int(nearest.argmax())
    return cells[kept]
