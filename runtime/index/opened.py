"""An index on disk, opened for searching.

index.json              IndexRecord
parquet/ | lancedb/ | qdrant/   the rows, in one of the stores (`runtime.index.stores`)
canary.npz              a sample of the images (`runtime.index.canary`)
explanations.jsonl, embeddings.npy      the journal, with which a stopped run goes on
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from runtime.errors import InputError, SchemaError
from runtime.explanation import Explanation
from runtime.index.stores import STORES, Hit, Store
from runtime.package.typed_json import json_object, read

RECORD = "index.json"
SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """`index.json`, written last: if it exists, the index is complete."""

    schema: int
    embedding_id: str
    dimension: int
    rows: int
    store: str
    """Key of `runtime.index.stores.STORES`."""
    package: str
    """Path of the package that made the index."""
    package_hash: str

    @classmethod
    def open(cls, folder: Path) -> IndexRecord:
        """Read `RECORD`.  Raises `InputError`: it is missing, unreadable, or of another version."""
        path = folder / RECORD
        if not path.is_file():
            raise _unusable(f"{folder} holds no {RECORD}")
        try:
            record = read(cls, json_object(path.read_text(errors="replace"), str(path)), str(path))
        except SchemaError as error:
            raise _unusable(error.came) from error
        if record.schema != SCHEMA or record.store not in STORES:
            raise _unusable(f"{path} has schema {record.schema}, store {record.store!r}")
        return record


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
            InputError: it is missing, unreadable, or of another version.
            BackendUnavailable: the store's library is not installed.
        """
        folder = Path(folder)
        record = IndexRecord.open(folder)
        return cls(folder, record, STORES[record.store](folder / record.store))

    def nearest(self, query: Explanation | np.ndarray, k: int = 10) -> list[Hit]:
        """Find the k rows with the most similar embeddings, the most similar first.

        Args:
            query: an explanation, or an embedding float32 (D,), whose embedding id is not checked.
            k: at least 1; a smaller index gives all its rows.

        Raises:
            InputError: an explanation with another embedding id, a vector of another shape or with
                values that are not finite, or a k below 1.
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
        return self._store.nearest(query, k)

    def check_id(self, embedding_id: str) -> None:
        """Raise `InputError` unless this is the embedding id of the index."""
        own = self.record.embedding_id
        if embedding_id != own:
            raise InputError(
                f"embeddings {embedding_id}, and an index of {own}",
                expected="equal ids; distances between other embeddings mean nothing",
                cure=f"open the package it was made with ({self.record.package}) at the same precision "
                f"({own.rpartition('-')[2]}), or index the images again",
            )

    def close(self) -> None:
        """Close the store; may be called twice."""
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unusable(came: str) -> InputError:
    return InputError(
        came,
        expected="the folder of an index, written by this version of nemu",
        cure="nemu index PACKAGE PHOTOS --out INDEX",
    )
