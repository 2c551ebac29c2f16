"""An index on disk: open it, search it with an image, and show why each hit is similar.

index.json              IndexRecord
parquet/ | lancedb/ | qdrant/   the rows, in one of the stores (`runtime.index.stores`)
canary.npz              a sample of the images (`runtime.index.canary`)
explanations.jsonl, embeddings.npy      the journal, with which a stopped run goes on
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import refuse_existing
from runtime.bulk.journal import read_json, write_json
from runtime.errors import EngineMismatch, InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.diff import LEAST_COSINE
from runtime.index.stores import STORES, Hit, Store
from runtime.media.decode import pillow
from runtime.media.encode import save_png
from runtime.media.occlusion import cosine
from runtime.media.overlay import grid, heat
from runtime.package.folder import Package

RECORD, FOUND = "index.json", "search.json"
"""Names of an index's record, and of the file with the numbers of a search."""
SCHEMA = 1
MUTUAL, OWN = "toward each other", "each image's own"
"""`masks` in `FOUND`: with and without targets."""


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
        expected = "the folder of an index, written by this version of nemu"
        cure = "nemu index PACKAGE PHOTOS --out INDEX"
        record = read_json(cls, folder / RECORD, expected=expected, cure=cure)
        if record.schema != SCHEMA or record.store not in STORES:
            came = f"{folder / RECORD} has schema {record.schema}, store {record.store!r}"
            raise InputError(came, expected=expected, cure=cure)
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


def search(
    index: Index,
    explainer: Explainer,
    package: Package,
    photo: Path,
    folder: Path,
    *,
    k: int = 5,
    draw: dict[str, Any] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Find the k nearest images; write RANK.png for each, and `FOUND` last.

    RANK.png shows the query and the hit side by side, each with what in it is like the other if targets can
    be used here, else with its own mask; `masks` in `FOUND` says which.  If the hit's file is gone, cannot
    be read or is another image by now, its stored mask is drawn alone, with the reason.

    Args:
        package: the explainer's.
        draw: `keep` and `style` of `Explanation.overlay`.
        force: replace an earlier search; removes the files that its `FOUND` names.

    Returns:
        The contents of `FOUND`.

    Raises:
        InputError: the query cannot be read, or the index holds embeddings of another id.
        OutputExists: `FOUND` exists and `force` is not given.
    """
    refuse_existing(folder / FOUND, force=force)
    earlier = _files(folder)
    index.check_id(explainer.embedding_id)
    query = explainer(photo, fidelity=True)
    hits, masks = _hits(index, explainer, query, photo, folder, k, draw or {})
    answer = {
        "query": str(photo),
        "embedding_id": explainer.embedding_id,
        "kept": query.fidelity,
        "masks": masks,
        "same_package": package.hash == index.record.package_hash,
        "hits": hits,
    }
    for name in earlier - {hit["file"] for hit in hits}:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / FOUND, answer)
    return answer


def _hits(
    index: Index,
    explainer: Explainer,
    query: Explanation,
    photo: Path,
    folder: Path,
    k: int,
    draw: dict[str, Any],
) -> tuple[list[dict[str, Any]], str]:
    """Write RANK.png of each hit; returns `hits` and `masks` of `FOUND`."""
    masks = MUTUAL if explainer.takes_target else OWN
    hits = []
    for rank, hit in enumerate(index.nearest(query, k), 1):
        found, state = _image(explainer, hit)
        pair = [query, found] if found else [query]
        if masks == MUTUAL:
            try:
                pair = _toward_each_other(explainer, photo, query, hit, found)
            except EngineMismatch as error:
                masks = f"{OWN}: {error.came}; {error.cure}"
        sides = [one.overlay(**draw) for one in pair]
        if not found:
            sides.append(_with_text(heat(hit.row.mask), f"{state}: its stored mask"))
        file = save_png(folder / f"{rank:02d}.png", grid([sides]), force=True)
        row = hit.row
        facts = {"name": row.name, "image": row.image, "similarity": hit.similarity, "kept": row.kept}
        hits.append({"rank": rank, **facts, "curve": row.curve, "picture": state, "file": file.name})
    return hits, masks


def _files(folder: Path) -> set[str]:
    """Names of the images of an earlier search: those in its `FOUND` that lie in the folder itself."""
    try:
        hits = json.loads((folder / FOUND).read_text())["hits"]
        names = {hit["file"] for hit in hits}
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not a record of a search
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name != FOUND}


def _toward_each_other(
    explainer: Explainer, photo: Path, query: Explanation, hit: Hit, found: Explanation | None
) -> list[Explanation]:
    """The query toward the hit; and the hit toward the query if its file exists."""
    one = explainer(photo, toward=found or hit.row.embedding)
    return [one, explainer(Path(hit.row.image), toward=query)] if found else [one]


def _image(explainer: Explainer, hit: Hit) -> tuple[Explanation | None, str]:
    """Explain the hit's image if its file still holds it; also `there`, `gone`, `unreadable`, `changed`."""
    path = Path(hit.row.image)
    if not path.is_file():
        return None, "gone"
    try:
        found = explainer(path)
    except InputError:
        return None, "unreadable"
    same = cosine(found.embedding, hit.row.embedding) >= LEAST_COSINE
    return (found, "there") if same else (None, "changed")


def _with_text(image: np.ndarray, text: str) -> np.ndarray:
    """uint8 (H, W, 3) with a line of text on black above it, cut at the right edge."""
    from PIL import ImageDraw

    head = pillow().new("RGB", (image.shape[1], 16))
    ImageDraw.Draw(head).text((2, 2), text, fill="white")
    return np.concatenate([np.asarray(head), image])
