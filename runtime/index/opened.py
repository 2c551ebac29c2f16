"""An index on disk, opened for searching.

index.json              IndexRecord
parquet/ | lancedb/ | qdrant/   the rows, in one of the stores (`runtime.index.stores`)
canary.npz              a sample of the pictures (`runtime.index.canary`)
explanations.jsonl, embeddings.npy      the journal, from which a run goes on
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import TracebackType

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError, SchemaError
from runtime.explanation import Explanation
from runtime.index.row import Row
from runtime.index.stores import STORES, Store
from runtime.typed_json import json_object, read

RECORD = "index.json"
SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """`index.json`, written last: where it is, the index is whole."""

    schema: int
    embedding_id: str
    dimension: int
    rows: int
    store: str
    """A name of `runtime.index.stores.STORES`."""
    package: str
    """Path of the package that made it, then."""
    package_hash: str

    @classmethod
    def open(cls, folder: Path) -> IndexRecord:
        """Read `RECORD`.  Raises `InputError`: there is none, it cannot be read, or is of a newer version."""
        path = folder / RECORD
        if not path.is_file():
            raise _unusable(f"{folder} holds no {RECORD}")
        try:
            record = read(cls, json_object(path.read_text(errors="replace"), str(path)), str(path))
        except SchemaError as error:
            raise _unusable(error.came) from error
        if record.schema != SCHEMA or record.store not in STORES:
            raise _unusable(f"{path} is of schema {record.schema}, store {record.store!r}")
        return record

    def write(self, folder: Path) -> None:
        """Write `RECORD`, whole or not at all."""
        with atomic_file(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Hit:
    """A row that is near a query."""

    row: Row
    similarity: float
    """Cosine of the two embeddings, in [-1, 1]."""


class Index:
    """An index that `nemu index` wrote.

        with Index.open("index") as index:
            hits = index.nearest(explainer("query.jpg"), k=5)

    Make one with `Index.open`.
    """

    def __init__(self, folder: Path, record: IndexRecord, store: Store) -> None:
        self.folder = folder
        self.record = record
        self._store = store

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Open the index in a folder.

        Raises:
            InputError: there is none, it cannot be read, or a newer version wrote it.
            BackendUnavailable: the library of its store is not installed.
        """
        folder = Path(folder)
        record = IndexRecord.open(folder)
        return cls(folder, record, STORES[record.store](folder / record.store))

    def nearest(self, query: Explanation | np.ndarray, k: int = 10) -> list[Hit]:
        """The k rows whose embeddings are most similar to that of a query, the most similar first.

        Args:
            query: an explanation, or an embedding float32 (D,), whose id is yours to know.
            k: at least 1; of a smaller index, all rows.

        Raises:
            InputError: an explanation with another embedding id, a vector of another shape or that is not
                finite, or a k below 1.
        """
        if isinstance(query, Explanation):
            self.check_id(query.embedding_id)
            query = query.embedding
        if query.shape != (self.record.dimension,) or not np.isfinite(query).all() or k < 1:
            raise InputError(
                f"a query {query.dtype} {query.shape}, k={k}",
                expected=f"finite numbers ({self.record.dimension},), and k at least 1",
                cure="pass an Explanation, or its embedding",
            )
        return [Hit(row=row, similarity=similarity) for row, similarity in self._store.nearest(query, k)]

    def check_id(self, embedding_id: str) -> None:
        """Raise `InputError` unless embeddings of this id may be compared with those of the index."""
        own = self.record.embedding_id
        if embedding_id != own:
            raise InputError(
                f"embeddings {embedding_id}, and an index of {own}",
                expected="equal ids, for only then distances mean anything",
                cure=f"open the package it was made with ({self.record.package}) at the same precision "
                f"({own.rpartition('-')[2]}), or index the pictures anew",
            )

    def close(self) -> None:
        """Give back what the store holds open; may be called again."""
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unusable(came: str) -> InputError:
    return InputError(
        came,
        expected="the folder of an index, written by this version of nemu",
        cure="nemu index PACKAGE PHOTOS --out INDEX",
    )
