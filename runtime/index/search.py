"""Search an index with an image, and show why each hit is similar: images to look at, and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import refuse_existing
from runtime.bulk.journal import write_json
from runtime.errors import EngineMismatch, InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.diff import LEAST_COSINE
from runtime.index.opened import Index
from runtime.index.stores import Hit
from runtime.media.decode import pillow
from runtime.media.encode import save_png
from runtime.media.occlusion import cosine
from runtime.media.overlay import grid, heat
from runtime.package.folder import Package

RECORD = "search.json"
"""Name of the file with the numbers."""
MUTUAL, OWN = "toward each other", "each image's own"
"""`masks` in `RECORD`: with and without targets."""


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
    """Find the k nearest images; write RANK.png for each, and `RECORD` last.

    RANK.png shows the query and the hit side by side, each with what in it is like the other if targets can
    be used here, else with its own mask; `masks` in `RECORD` says which.  If the hit's file is gone, cannot
    be read or is another image by now, its stored mask is drawn alone, with the reason.

    Args:
        package: the explainer's.
        draw: `keep` and `style` of `Explanation.overlay`.
        force: replace an earlier search; removes the files that its `RECORD` names.

    Returns:
        The contents of `RECORD`.

    Raises:
        InputError: the query cannot be read, or the index holds embeddings of another id.
        OutputExists: `RECORD` exists and `force` is not given.
    """
    refuse_existing(folder / RECORD, force=force)
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
    write_json(folder / RECORD, answer)
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
    """Write RANK.png of each hit; returns `hits` and `masks` of `RECORD`."""
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
    """Names of the images of an earlier search: those in its `RECORD` that lie in the folder itself."""
    try:
        hits = json.loads((folder / RECORD).read_text())["hits"]
        names = {hit["file"] for hit in hits}
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not a record of a search
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name != RECORD}


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
