"""Bank: what normal pictures look like, cell by cell; and how far a picture is from that.

A picture is a grid of cells, each with the encoder's local features (`model.cells.onnx` of a package).  A
bank keeps cells that represent all those of the normal pictures.  How far a cell is from the nearest of them
says how strange it is, and a picture's score is its strangest cell's: PatchCore's rule (Roth et al., CVPR
2022), on features that are first scaled by how much they vary among normal cells.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import atomic_file
from runtime.coreset import Coreset
from runtime.errors import InputError, IntegrityError, SchemaError

FEWEST = 8
"""Normal pictures that a bank is made of, at least."""
FOLDS = 4
"""Parts of the normal pictures, in their order, that are left out in turn: so that near-duplicates, which
mostly follow each other, are left out together."""
SCHEMA = 1
_OWN, _CELLS = ("embeddings", "normal_scores"), ("mean", "projection", "rows")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Normal pictures, as a package's encoder sees them.  Make one with `runtime.anomaly.fit_bank`."""

    embedding_id: str
    """Of the package whose pictures it may judge."""
    grid: tuple[int, int]
    """Rows and columns of cells."""
    names: tuple[str, ...]
    """What the P normal pictures are called."""
    embeddings: np.ndarray
    """float32 (P, D)."""
    cells: Coreset
    """What their cells look like."""
    normal_scores: np.ndarray
    """float32 (P,): the score of each normal picture against a bank without it."""

    @classmethod
    def fit(
        cls, embeddings: np.ndarray, cells: np.ndarray, names: tuple[str, ...], *, embedding_id: str
    ) -> Bank:
        """Make a bank.

        Args:
            embeddings: float32 (P, D) of normal pictures.
            cells: float32 (P, C, h, w) of the same.
            names: what they are called.

        Raises:
            InputError: fewer than FEWEST pictures.
        """
        if len(cells) < FEWEST:
            raise InputError(
                f"{len(cells)} normal pictures that can be read",
                expected=f"at least {FEWEST}, better 40 or more, of all that is normal",
                cure="add pictures without defects to the folder",
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
        """float32 (C, h, w) of one picture → float32 (h, w): its cells' distances to the nearest normal ones.

        Raises:
            InputError: cells of another shape than the bank's.
        """
        expected = (len(self.cells.mean), *self.grid)
        if cells.shape != expected:
            raise InputError(
                f"cells {cells.shape}",
                expected=f"{expected}, as of the pictures the bank was made of",
                cure="make the bank again with this package: nemu bank",
            )
        return self.cells.distances(cells.reshape(len(cells), -1)).reshape(self.grid)

    def threshold(self, false_alarms: float) -> float:
        """The score that at most this share of the normal pictures exceeded when they were left out.

        With fewer than 1 / false_alarms normal pictures that is the highest of theirs.

        Raises:
            InputError: a share outside [0, 1).
        """
        if not 0 <= false_alarms < 1:
            raise InputError(
                f"false_alarms={false_alarms}",
                expected="0 or more, below 1",
                cure="0.01 for one normal picture in a hundred",
            )
        return float(np.quantile(self.normal_scores, 1 - false_alarms, method="higher"))

    def p_value(self, score: float) -> float:
        """Share of normal pictures that score at least as high, this one counted with them: in (0, 1]."""
        return (1 + int(np.sum(self.normal_scores >= score))) / (1 + len(self.normal_scores))

    def nearest(self, embedding: np.ndarray) -> tuple[str, float]:
        """The normal picture whose embedding, float32 (D,), is most like this one, and their cosine."""
        cosines = self._directions @ (embedding / max(float(np.linalg.norm(embedding)), 1e-12))
        at = int(cosines.argmax())
        return self.names[at], float(cosines[at])

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write it as one file, in numpy's .npz form, nothing pickled; returns `path`.

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
        """Read what `save` wrote.

        Raises:
            InputError: no file there.
            SchemaError: it is no bank, or of a newer version.
            IntegrityError: it was changed.
        """
        if not Path(path).is_file():
            raise InputError(
                f"{path}: no such file",
                expected="a bank of normal pictures",
                cure=f"nemu bank PACKAGE NORMAL_FOLDER --out {path}",
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            schema, digest = int(arrays["schema"]), str(arrays.pop("sha256"))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            OSError,
            zipfile.BadZipFile,
        ) as error:
            raise SchemaError(
                f"{path} is no bank ({type(error).__name__})",
                expected="a file of nemu bank",
                cure="make it again: nemu bank PACKAGE NORMAL_FOLDER --out NAME.bank",
            ) from error
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


def _rows(flat: np.ndarray) -> np.ndarray:
    """(P, C, n) → (P·n, C)."""
    return flat.transpose(0, 2, 1).reshape(-1, flat.shape[1])


def _digest(arrays: Mapping[str, Any]) -> str:
    """sha256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
