"""Stores of rows: a Parquet file, LanceDB or Qdrant, each in a folder, without a server.

A store writes all rows into an empty folder, and finds the k nearest in it:

    STORES[name].write(folder, rows)
    with STORES[name](folder) as store:
        store.nearest(embedding, k)
"""

from __future__ import annotations

import abc
import base64
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from runtime.errors import BackendUnavailable, InputError
from runtime.index.row import Row, from_fields, from_table, to_table

_LIBRARIES = {"parquet": "pyarrow.parquet", "lancedb": "lancedb", "qdrant": "qdrant_client"}

Found = list[tuple[Row, float]]
"""Rows and their cosine similarity to a query, in [-1, 1], the most similar first."""


class Store(abc.ABC):
    """A folder of rows, open for searching.

    Raises:
        BackendUnavailable: its library is not installed.
        InputError: its rows are missing or cannot be read.
    """

    @staticmethod
    @abc.abstractmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        """Write all rows, at least one, into an empty folder.  Raises `BackendUnavailable`."""

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abc.abstractmethod
    def nearest(self, embedding: np.ndarray, k: int) -> Found:
        """The k rows most similar to float32 (D,), or all if there are fewer."""

    def close(self) -> None:  # noqa: B027 (Parquet keeps nothing open)
        """Close the store; may be called twice."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ParquetStore(Store):
    """`rows.parquet`, read into memory; every vector is compared."""

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        parquet = library("parquet")
        parquet.write_table(to_table(rows, rows[0].embedding.size), folder / "rows.parquet")

    def __init__(self, folder: Path) -> None:
        parquet = library("parquet")
        with _reading(folder):
            self._table = parquet.read_table(folder / "rows.parquet")
            vectors = self._table["embedding"].combine_chunks()
            vectors = np.asarray(vectors.flatten(), np.float32).reshape(len(self._table), -1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = vectors / np.maximum(lengths, np.float32(1e-12))

    def nearest(self, embedding: np.ndarray, k: int) -> Found:
        similarities = self._vectors @ _unit(embedding)
        k = min(k, len(similarities))
        best = np.argpartition(-similarities, k - 1)[:k]
        best = best[np.argsort(-similarities[best], kind="stable")]
        rows = from_table(self._table.take(best))
        return [(row, float(similarities[i])) for row, i in zip(rows, best, strict=True)]


class LanceStore(Store):
    """A table `rows` of LanceDB, with an index of one partition: every vector is compared, in memory."""

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        database = library("lancedb").connect(str(folder))
        table = database.create_table("rows", to_table(rows, rows[0].embedding.size))
        of_all = importlib.import_module("lancedb.index").IvfFlat(distance_type="cosine", num_partitions=1)
        table.create_index("embedding", config=of_all)

    def __init__(self, folder: Path) -> None:
        lancedb = library("lancedb")
        with _reading(folder):
            self._table = lancedb.connect(str(folder)).open_table("rows")

    def nearest(self, embedding: np.ndarray, k: int) -> Found:
        query = self._table.search(embedding.astype(np.float32), vector_column_name="embedding")
        found = query.distance_type("cosine").limit(k).to_arrow()
        return list(zip(from_table(found), (1 - d for d in found["_distance"].to_pylist()), strict=True))


class QdrantStore(Store):
    """A collection `rows` of Qdrant's local mode, which compares every vector.

    Vectors are stored with length 1, so that their product is the cosine; Qdrant's own cosine computes all
    lengths at each query.  The length is stored in the payload and restored.
    """

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        qdrant = library("qdrant")
        models = qdrant.models
        shape = models.VectorParams(size=rows[0].embedding.size, distance=models.Distance.DOT)
        points = [models.PointStruct(**_point(i, row)) for i, row in enumerate(rows)]
        with closing(qdrant.QdrantClient(path=str(folder))) as client:
            client.create_collection("rows", vectors_config=shape)
            client.upload_points("rows", points)

    def __init__(self, folder: Path) -> None:
        qdrant = library("qdrant")
        with _reading(folder), ExitStack() as stack:
            self._client = stack.enter_context(closing(qdrant.QdrantClient(path=str(folder))))
            if not self._client.collection_exists("rows"):
                raise FileNotFoundError(folder / "collection/rows")
            stack.pop_all()  # opened completely: keep it open

    def nearest(self, embedding: np.ndarray, k: int) -> Found:
        found = self._client.query_points(
            "rows", query=_unit(embedding).tolist(), limit=k, with_payload=True, with_vectors=True
        )
        return [(_from_point(point), float(point.score)) for point in found.points]

    def close(self) -> None:
        self._client.close()


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _point(i: int, row: Row) -> dict[str, Any]:
    """A row as plain JSON values."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    vector = fields.pop("embedding")
    fields["mask_code"] = base64.b64encode(row.mask_code).decode()
    return {
        "id": i,
        "vector": _unit(vector).tolist(),
        "payload": {**fields, "length": float(np.linalg.norm(vector))},
    }


def _from_point(point: Any) -> Row:
    vector = np.asarray(point.vector, np.float32) * np.float32(point.payload["length"])
    code = base64.b64decode(point.payload["mask_code"])
    return from_fields({**point.payload, "embedding": vector, "mask_code": code})


STORES: dict[str, type[Store]] = {"parquet": ParquetStore, "lancedb": LanceStore, "qdrant": QdrantStore}
"""Stores by their `nemu index --store` names."""


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn any error of a store's library on a broken folder into an `InputError`."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{folder} cannot be read ({type(error).__name__}: {error})",
            expected="the rows that nemu index wrote, not in use by another program",
            cure="close other programs that have the index open, such as another search; if there are none, "
            "index the images again: nemu index PACKAGE PHOTOS --out INDEX",
        ) from error


def library(store: str) -> Any:
    """Import a store's library.  Raises `BackendUnavailable`: it is not installed."""
    name = _LIBRARIES[store]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailable(
            f"{name.partition('.')[0]} is not installed, which the store {store} needs",
            expected=f"the packages of the extra `{store}`",
            cure=f'in the folder of this project: pip install ".[{store}]"',
        ) from error
