"""Rows of an index, and stores of them without a server: a Parquet file, LanceDB or Qdrant, each in a folder.

A store writes all rows into an empty folder, and finds the k nearest in it:

    STORES[name].write(folder, rows)
    with closing(STORES[name](folder)) as store:
        store.nearest(embedding, k)
"""

from __future__ import annotations

import abc
import base64
import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.bulk.images import library
from runtime.errors import InputError
from runtime.index.code import decode_mask

LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Levels of the mask at which `Row.curve` gives the kept similarity."""
_LIBRARIES = {"parquet": "pyarrow.parquet", "lancedb": "lancedb", "qdrant": "qdrant_client"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One image of an index; every store has these columns under these names."""

    name: str
    """Name of the image, unique in the index."""
    image: str
    """Path of the file when it was indexed."""
    embedding_id: str
    """Embeddings may be compared only if their ids are equal."""
    embedding: np.ndarray
    """float32 (D,), not normalised."""
    mask_code: bytes
    """At most 1000 bytes, see `runtime.index.code`."""
    kept: float | None
    """Cosine of the embedding and that of what the mask keeps (`Explanation.fidelity`), measured on this
    image; None if the index was made with --no-fidelity."""
    curve: tuple[float, ...] | None
    """Average kept similarity of the pixels at or above each of `LEVELS` (`Explanation.kept_at`); None if
    the package has no level curve."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Row:
        """Make a row from the plain values of its columns; others are ignored."""
        values = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
        values["embedding"] = np.asarray(values["embedding"], np.float32)
        values["curve"] = None if values["curve"] is None else tuple(values["curve"])
        return cls(**values)

    @property
    def mask(self) -> np.ndarray:
        """float32 (h, w) in [0, 1], on the graph's grid.  Raises `InputError`: the code is broken."""
        return decode_mask(self.mask_code)


class Hit(NamedTuple):
    """A row found by a query."""

    row: Row
    similarity: float
    """Cosine of the query's and the row's embedding, in [-1, 1]."""


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
    def nearest(self, embedding: np.ndarray, k: int) -> list[Hit]:
        """The k rows most similar to float32 (D,), or all if there are fewer, the most similar first."""

    def close(self) -> None:  # noqa: B027 (Parquet keeps nothing open)
        """Close the store; may be called twice."""


class ParquetStore(Store):
    """`rows.parquet`, read into memory; every vector is compared."""

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        parquet = library_of("parquet")
        parquet.write_table(_table(rows), folder / "rows.parquet")

    def __init__(self, folder: Path) -> None:
        parquet = library_of("parquet")
        with _reading(folder):
            self._table = parquet.read_table(folder / "rows.parquet")
            vectors = self._table["embedding"].combine_chunks()
            vectors = np.asarray(vectors.flatten(), np.float32).reshape(len(self._table), -1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = vectors / np.maximum(lengths, np.float32(1e-12))

    def nearest(self, embedding: np.ndarray, k: int) -> list[Hit]:
        similarities = self._vectors @ _unit(embedding)
        k = min(k, len(similarities))
        best = np.argpartition(-similarities, k - 1)[:k]
        best = best[np.argsort(-similarities[best], kind="stable")]
        return _hits(self._table.take(best), map(float, similarities[best]))


class LanceStore(Store):
    """A table `rows` of LanceDB, with an index of one partition: every vector is compared, in memory."""

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        database = library_of("lancedb").connect(str(folder))
        table = database.create_table("rows", _table(rows))
        of_all = importlib.import_module("lancedb.index").IvfFlat(distance_type="cosine", num_partitions=1)
        table.create_index("embedding", config=of_all)

    def __init__(self, folder: Path) -> None:
        lancedb = library_of("lancedb")
        with _reading(folder):
            self._table = lancedb.connect(str(folder)).open_table("rows")

    def nearest(self, embedding: np.ndarray, k: int) -> list[Hit]:
        query = self._table.search(embedding.astype(np.float32), vector_column_name="embedding")
        found = query.distance_type("cosine").limit(k).to_arrow()
        return _hits(found, (1 - distance for distance in found["_distance"].to_pylist()))


class QdrantStore(Store):
    """A collection `rows` of Qdrant's local mode, which compares every vector.

    Vectors are stored with length 1, so that their product is the cosine; Qdrant's own cosine computes all
    lengths at each query.  The length is stored in the payload and restored.
    """

    @staticmethod
    def write(folder: Path, rows: Sequence[Row]) -> None:
        qdrant = library_of("qdrant")
        models = qdrant.models
        shape = models.VectorParams(size=rows[0].embedding.size, distance=models.Distance.DOT)
        points = [models.PointStruct(**_point(i, row)) for i, row in enumerate(rows)]
        with closing(qdrant.QdrantClient(path=str(folder))) as client:
            client.create_collection("rows", vectors_config=shape)
            client.upload_points("rows", points)

    def __init__(self, folder: Path) -> None:
        qdrant = library_of("qdrant")
        with _reading(folder), ExitStack() as stack:
            self._client = stack.enter_context(closing(qdrant.QdrantClient(path=str(folder))))
            if not self._client.collection_exists("rows"):
                raise FileNotFoundError(folder / "collection/rows")
            stack.pop_all()  # opened completely: keep it open

    def nearest(self, embedding: np.ndarray, k: int) -> list[Hit]:
        found = self._client.query_points(
            "rows", query=_unit(embedding).tolist(), limit=k, with_payload=True, with_vectors=True
        )
        return [Hit(_from_point(point), float(point.score)) for point in found.points]

    def close(self) -> None:
        self._client.close()


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _table(rows: Sequence[Row]) -> Any:
    """A pyarrow.Table with the columns of `Row`."""
    import pyarrow as pa

    schema = {
        **dict.fromkeys(("name", "image", "embedding_id"), pa.string()),
        "embedding": pa.list_(pa.float32(), rows[0].embedding.size),
        "mask_code": pa.binary(),
        "kept": pa.float64(),
        "curve": pa.list_(pa.float64()),
    }
    return pa.Table.from_pylist([vars(row) for row in rows], schema=pa.schema(schema))


def _hits(table: Any, similarities: Iterable[float]) -> list[Hit]:
    return [Hit(Row.of(fields), s) for fields, s in zip(table.to_pylist(), similarities, strict=True)]


def _point(i: int, row: Row) -> dict[str, Any]:
    """A row as plain JSON values."""
    fields = dict(vars(row))
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
    return Row.of({**point.payload, "embedding": vector, "mask_code": code})


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


def library_of(store: str) -> Any:
    """Import a store's library.  Raises `BackendUnavailable`: it is not installed."""
    cure = f'in the folder of this project: pip install ".[{store}]"'
    return library(_LIBRARIES[store], f"the packages of the extra `{store}`, for the store {store}", cure)
