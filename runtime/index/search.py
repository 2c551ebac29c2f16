"""A picture → what is like it in an index, and why: pictures to look at, and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtime.atomic import atomic_file, refuse_existing
from runtime.decode import pillow
from runtime.diff import LEAST_COSINE
from runtime.encode import save_png
from runtime.errors import EngineMismatch, InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.opened import Hit, Index
from runtime.occlusion import cosine
from runtime.overlay import grid, heat
from runtime.package import Package

RECORD = "search.json"
OWN = "each picture's own"


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
    """Find the k nearest pictures and write, for each, RANK.png; and `RECORD`, last.

    RANK.png: the query and the hit side by side, each with what in it is like the other, if the package takes
    targets and something here runs them, else with its own mask; `masks` in `RECORD` says which.  Where the
    hit's file is gone, cannot be read or is another picture by now, the mask that the index stored is drawn
    alone, and a word says why.

    Args:
        package: the explainer's.
        draw: `keep` and `style` of `Explanation.overlay`.
        force: replace an earlier search; files that its `RECORD` names are removed.

    Returns:
        What `RECORD` holds.

    Raises:
        InputError: the query cannot be read, or the index holds embeddings of another id.
        OutputExists: there is a `RECORD` and `force` is not given.
    """
    refuse_existing(folder / RECORD, force=force)
    earlier = _files(folder)
    index.check_id(explainer.embedding_id)
    query = explainer(photo, fidelity=True)
    own = "" if explainer.takes_target else OWN  # mask of each picture: why
    hits = []
    for rank, hit in enumerate(index.nearest(query, k), 1):
        found, state = _picture(explainer, hit)
        pair = [query, found] if found else [query]
        if not own:
            try:
                pair = _toward_each_other(explainer, photo, query, hit, found)
            except EngineMismatch as error:
                own = f"{OWN}: {error.came}; {error.cure}"
        sides = [one.overlay(**(draw or {})) for one in pair]
        if not found:
            sides.append(_with_word(heat(hit.row.mask), f"{state}: its stored mask"))
        file = save_png(folder / f"{rank:02d}.png", grid([sides]), force=True)
        row = hit.row
        facts = {"name": row.name, "image": row.image, "similarity": hit.similarity, "kept": row.kept}
        hits.append({"rank": rank, **facts, "curve": row.curve, "picture": state, "file": file.name})
    answer = {
        "query": str(photo),
        "embedding_id": explainer.embedding_id,
        "kept": query.fidelity,
        "masks": own or "toward each other",
        "same_package": package.hash == index.record.package_hash,
        "hits": hits,
    }
    for name in earlier - {hit["file"] for hit in hits}:
        (folder / name).unlink(missing_ok=True)
    with atomic_file(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(answer, indent=2) + "\n")
    return answer


def _files(folder: Path) -> set[str]:
    """Pictures of an earlier search: what its `RECORD` names, of files in the folder itself."""
    try:
        hits = json.loads((folder / RECORD).read_text())["hits"]
        names = {hit["file"] for hit in hits}
    except (OSError, ValueError, KeyError, TypeError):  # none, or no record of a search
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name != RECORD}


def _toward_each_other(
    explainer: Explainer, photo: Path, query: Explanation, hit: Hit, found: Explanation | None
) -> list[Explanation]:
    """What in the query is like the hit; and, where its picture is there, what in that is like the query."""
    one = explainer(photo, toward=found or hit.row.embedding)
    return [one, explainer(Path(hit.row.image), toward=query)] if found else [one]


def _picture(explainer: Explainer, hit: Hit) -> tuple[Explanation | None, str]:
    """The hit's picture explained, if its file holds it; `there`, `gone`, `unreadable` or `changed`."""
    path = Path(hit.row.image)
    if not path.is_file():
        return None, "gone"
    try:
        found = explainer(path)
    except InputError:
        return None, "unreadable"
    same = cosine(found.embedding, hit.row.embedding) >= LEAST_COSINE
    return (found, "there") if same else (None, "changed")


def _with_word(picture: np.ndarray, word: str) -> np.ndarray:
    """uint8 (H, W, 3), with a line of text on black above it, cut at its right edge."""
    from PIL import ImageDraw

    head = pillow().new("RGB", (picture.shape[1], 16))
    ImageDraw.Draw(head).text((2, 2), word, fill="white")
    return np.concatenate([np.asarray(head), picture])
