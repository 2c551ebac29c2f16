"""A row of an index: an image's vector, and the explanation that is stored beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bulk.journal import LINES, ROWS
from runtime.errors import InputError
from runtime.explanation import Explanation
from runtime.index.code import decode_mask, encode_mask

LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Levels of the mask at which `Row.curve` gives the kept similarity."""


@dataclass(frozen=True, kw_only=True, eq=False)
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

    @property
    def mask(self) -> np.ndarray:
        """float32 (h, w) in [0, 1], on the graph's grid.  Raises `InputError`: the code is broken."""
        return decode_mask(self.mask_code)


def noted(explanation: Explanation) -> dict[str, Any]:
    """Fields of a journal line that a row needs beyond `Explanation.facts`."""
    known = explanation.curve is not None
    return {
        "mask_code": base64.b64encode(encode_mask(explanation.graph_mask)).decode(),
        "curve": [round(explanation.kept_at(level), 6) for level in LEVELS] if known else None,
    }


def has_rows(folder: Path) -> bool:
    """Whether the folder holds the journal of an index with at least one image."""
    return b'"mask_code"' in _first_line(folder)


def refuse_other(folder: Path) -> None:
    """Raise `InputError` if `nemu explain` wrote the folder's journal, not `nemu index`.

    Reads only the first line; `journal_rows` checks the others.
    """
    if _first_line(folder).endswith(b"\n") and not has_rows(folder):
        raise _not_an_index(folder)


def _first_line(folder: Path) -> bytes:
    path = folder / LINES
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.readline()


def _not_an_index(folder: Path) -> InputError:
    return InputError(
        f"{folder / LINES} has images without a mask code",
        expected="the journal of an index",
        cure="index into another folder, or add --force to start anew",
    )


def journal_rows(folder: Path) -> list[Row]:
    """Rows of an index's journal, in its order.  Raises `InputError`: a line has no mask code."""
    embeddings = np.load(folder / ROWS, mmap_mode="r")
    lines = [json.loads(line) for line in (folder / LINES).read_bytes().splitlines()]
    if not all({"mask_code", "curve"} <= line.keys() for line in lines):
        raise _not_an_index(folder)
    return [
        Row(
            **{key: line[key] for key in ("name", "image", "embedding_id")},
            embedding=embedding,
            mask_code=base64.b64decode(line["mask_code"]),
            kept=line["fidelity"],
            curve=None if line["curve"] is None else tuple(line["curve"]),
        )
        for line, embedding in zip(lines, embeddings, strict=True)
    ]


def to_table(rows: Sequence[Row], dimension: int) -> Any:
    """Convert rows to a pyarrow.Table with the columns of `Row`."""
    import pyarrow as pa

    vectors = np.array([row.embedding for row in rows], np.float32).ravel()
    columns = {
        "name": pa.array([row.name for row in rows], pa.string()),
        "image": pa.array([row.image for row in rows], pa.string()),
        "embedding_id": pa.array([row.embedding_id for row in rows], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, dimension),
        "mask_code": pa.array([row.mask_code for row in rows], pa.binary()),
        "kept": pa.array([row.kept for row in rows], pa.float64()),
        "curve": pa.array([row.curve for row in rows], pa.list_(pa.float64())),
    }
    return pa.table(columns)


def from_table(table: Any) -> list[Row]:
    """Convert such a table to rows; other columns are ignored."""
    return [from_fields(fields) for fields in table.to_pylist()]


def from_fields(fields: dict[str, Any]) -> Row:
    """Make a row from the plain values of its columns."""
    curve = fields["curve"]
    return Row(
        **{key: fields[key] for key in ("name", "image", "embedding_id", "mask_code", "kept")},
        embedding=np.asarray(fields["embedding"], np.float32),
        curve=None if curve is None else tuple(curve),
    )
