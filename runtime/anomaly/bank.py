"""Bank: the local features of normal images, and the distance of an image from them.

An image is a grid of cells, each with the encoder's local features (`model.cells.onnx` of a package).  A bank
keeps a selection of the cells of normal images.  The score of a cell is its distance to the nearest kept
cell, and the score of an image is the highest score of its cells: PatchCore's rule (Roth et al., CVPR 2022),
on features that are first scaled by how much they vary among normal cells.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError, IntegrityError, SchemaError

FEWEST = 8
"""Least number of normal images in a bank."""
FOLDS = 4
"""Number of consecutive parts of the normal images that are left out in turn.  Near-duplicates mostly follow
each other, so they are left out together."""
ROWS, DIMENSIONS = 1000, 64
"""Number of kept cells, and of coordinates of each.  Comparing 200 cells with them takes 0.3 ms on one core
with AVX-512.  2000 rows, or 96 dimensions, find hardly more defects (python -m benchmarks.defects)."""
SHRINKAGE = 0.3
"""Share of the mean variance that is added to the variance of each direction before scaling."""
CANDIDATES, MEASURED = 40_000, 10_000
"""Most cells that the kept ones are chosen from, and most cells whose variance is measured."""
SCHEMA = 1
_OWN, _CELLS = ("embeddings", "normal_scores"), ("mean", "projection", "rows")


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
        centred = (features[:MEASURED] - mean).astype(np.float64)
        variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Normal images, as a package's encoder sees them.  Make one with `runtime.anomaly.watch.fit_bank`."""

    embedding_id: str
    """Embedding id of the package that the bank belongs to."""
    grid: tuple[int, int]
    """Rows and columns of cells in an image."""
    names: tuple[str, ...]
    """Names of the P normal images."""
    embeddings: np.ndarray
    """float32 (P, D): embeddings of the normal images."""
    cells: Coreset
    """The kept cells."""
    normal_scores: np.ndarray
    """float32 (P,): the score of each normal image against a bank without it."""

    @classmethod
    def fit(
        cls, embeddings: np.ndarray, cells: np.ndarray, names: tuple[str, ...], *, embedding_id: str
    ) -> Bank:
        """Make a bank.

        Args:
            embeddings: float32 (P, D), of normal images.
            cells: float32 (P, C, h, w), of the same images.
            names: names of the images.

        Raises:
            InputError: fewer than FEWEST images.
        """
        if len(cells) < FEWEST:
            raise InputError(
                f"{len(cells)} normal images that can be read",
                expected=f"at least {FEWEST}, better 40 or more, that show all that is normal",
                cure="add images without defects to the folder",
            )
        flat = cells.reshape(*cells.shape[:2], -1)  # (P, C, h·w)
        scores = np.empty(len(cells), np.float32)
        for fold in range(FOLDS):
            out = np.arange(len(cells)) * FOLDS // len(cells) == fold
            others = Coreset.of(_rows(flat[~out]))
            scores[out] = [others.distances(one).max() for one in flat[out]]
        return cls(
            embedding_id=embedding_id,
            grid=(cells.shape[2], cells.shape[3]),
            names=names,
            embeddings=embeddings,
            cells=Coreset.of(_rows(flat)),
            normal_scores=scores,
        )

    def distances(self, cells: np.ndarray) -> np.ndarray:
        """Distance of each cell of an image to the nearest normal cell: float32 (C, h, w) → float32 (h, w).

        Raises:
            InputError: cells of another shape than the bank's.
        """
        expected = (len(self.cells.mean), *self.grid)
        if cells.shape != expected:
            raise InputError(
                f"cells {cells.shape}",
                expected=f"{expected}, as in the images of the bank",
                cure="make the bank again with this package: nemu bank",
            )
        return self.cells.distances(cells.reshape(len(cells), -1)).reshape(self.grid)

    def threshold(self, false_alarms: float) -> float:
        """The score that at most this share of the normal images exceeded when they were left out.

        With fewer than 1 / false_alarms normal images it is their highest score.

        Raises:
            InputError: a share outside [0, 1).
        """
        if not 0 <= false_alarms < 1:
            raise InputError(
                f"false_alarms={false_alarms}",
                expected="0 or more, below 1",
                cure="0.01 for one normal image in a hundred",
            )
        return float(np.quantile(self.normal_scores, 1 - false_alarms, method="higher"))

    def p_value(self, score: float) -> float:
        """Share of images that score at least as high, among the normal images and this one: in (0, 1]."""
        return (1 + int(np.sum(self.normal_scores >= score))) / (1 + len(self.normal_scores))

    def nearest(self, embedding: np.ndarray) -> tuple[str, float]:
        """The normal image most similar to an embedding float32 (D,): its name, and the cosine."""
        cosines = self._directions @ (embedding / max(float(np.linalg.norm(embedding)), 1e-12))
        at = int(cosines.argmax())
        return self.names[at], float(cosines[at])

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the bank as one .npz file, without pickles; returns `path`.

        Raises:
            OutputExists: `path` is there and `force` is not given.
        """
        arrays: dict[str, Any] = {
            **{name: getattr(self, name) for name in _OWN},
            **{name: getattr(self.cells, name) for name in _CELLS},
            "schema": np.int64(SCHEMA),
            "embedding_id": np.str_(self.embedding_id),
            "grid": np.array(self.grid, np.int64),
            "names": np.array(self.names, np.str_),
        }
        with atomic_file(Path(path), force=force) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, sha256=np.str_(_digest(arrays)))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bank:
        """Read a bank that `save` wrote.

        Raises:
            InputError: no file there.
            SchemaError: the file is no bank, or a newer version wrote it.
            IntegrityError: the file was changed.
        """
        arrays, schema, digest = _read(path)
        if schema > SCHEMA:
            raise SchemaError(
                f"{path} has schema {schema}",
                expected=f"schema {SCHEMA} or older",
                cure="update this project, or make the bank again",
            )
        if digest != _digest(arrays):
            raise IntegrityError(
                f"{path} is not the file that was written (its sha256 differs)",
                expected="a bank as nemu bank wrote it",
                cure="copy it again, or make it again",
            )
        return cls(
            embedding_id=str(arrays["embedding_id"]),
            grid=(int(arrays["grid"][0]), int(arrays["grid"][1])),
            names=tuple(map(str, arrays["names"])),
            cells=Coreset(**{name: arrays[name] for name in _CELLS}),
            **{name: arrays[name] for name in _OWN},
        )

    @cached_property
    def _directions(self) -> np.ndarray:
        return self.embeddings / np.maximum(np.linalg.norm(self.embeddings, axis=1, keepdims=True), 1e-12)


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


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], int, str]:
    """The arrays of a file, its schema and the sha256 that it states; raises as `Bank.load`."""
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file",
            expected="a bank of normal images",
            cure=f"nemu bank PACKAGE NORMAL_FOLDER --out {path}",
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, int(arrays["schema"]), str(arrays.pop("sha256"))
    except Exception as error:  # np.load raises many kinds on a broken file
        raise SchemaError(
            f"{path} is no bank ({type(error).__name__})",
            expected="a file that nemu bank wrote",
            cure="make it again: nemu bank PACKAGE NORMAL_FOLDER --out NAME.bank",
        ) from error


def _rows(flat: np.ndarray) -> np.ndarray:
    """Cells of all images: (P, C, n) → (P·n, C)."""
    return flat.transpose(0, 2, 1).reshape(-1, flat.shape[1])


def _digest(arrays: Mapping[str, Any]) -> str:
    """sha256 over the arrays' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
