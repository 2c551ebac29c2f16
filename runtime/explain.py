"""Explain many pictures: decoding, computing and writing at the same time, in order, and going on where
an earlier run stopped."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.encode import encode_jpeg, encode_png
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.image import load_image
from runtime.journal import LINES, ROWS, Journal
from runtime.progress import progress
from runtime.sources import MASK, OVERLAY, NamedImage

MASKS = ("npy", "png", "none")
"""How raw masks are written: float32, 16-bit grey (65535 is 1), or not at all."""
OVERLAYS = ("jpg", "png", "none")
"""How overlays are written.  JPEG takes a tenth of PNG's time and a sixth of its space."""


class Outcome(NamedTuple):
    """What a run did."""

    written: list[str]
    """Names of the pictures that were explained now."""
    known: int
    """How many an earlier run had explained."""
    skipped: list[dict[str, str]]
    """Pictures that could not be read: `image` and `error`."""


def explain_pictures(
    explainer: Explainer,
    pictures: list[NamedImage],
    folder: Path,
    *,
    masks: str = "npy",
    overlays: str = "jpg",
    draw: dict[str, Any] | None = None,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    note: Callable[[Explanation], dict[str, Any]] | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Explain each picture that is not in the folder's journal yet.

    NAME.overlay.jpg and NAME.mask.npy (or .png) for each, a line and a row in the journal
    (`runtime.journal`).  A picture that cannot be read or drawn is skipped and listed.  Stopped at any
    moment, what is noted is whole, and the next run does the rest.

    Args:
        masks: of `MASKS`.
        overlays: of `OVERLAYS`.
        draw: `keep` and `style` of `Explanation.overlay`.
        toward: a target, float32 (D,), of all pictures.
        note: what a picture's line in the journal has besides; called in this thread.
        force: start anew: forget the journal, replace files.
        quiet: no progress bar.

    Raises:
        InputError: the folder holds results of another embedding id.
    """
    outcome = Outcome([], 0, [])
    with begun(explainer, pictures, folder, toward=toward, force=force, quiet=quiet) as (journal, bar, todo):
        coming: deque[NamedImage] = deque()

        def frames() -> Iterator[np.ndarray]:
            for picture in todo:
                try:
                    image = load_image(picture.image)
                except InputError as error:
                    outcome.skipped.append(_skipped(picture, error))
                    bar.update()
                    continue
                coming.append(picture)
                yield image

        for explanation in explainer.stream(frames(), toward=toward, fidelity=fidelity):
            picture = coming.popleft()
            bar.update()
            try:
                line = write_files(explanation, picture, folder, masks=masks, overlays=overlays, draw=draw)
                line.update(note(explanation) if note else {})
            except InputError as error:
                outcome.skipped.append(_skipped(picture, error))
                continue
            journal.add(line, explanation.embedding)
            outcome.written.append(picture.name)
    return outcome._replace(known=len(pictures) - len(todo))


@contextmanager
def begun(
    explainer: Explainer,
    pictures: list[NamedImage],
    folder: Path,
    *,
    toward: np.ndarray | None,
    force: bool,
    quiet: bool,
) -> Iterator[tuple[Journal, Any, list[NamedImage]]]:
    """The journal of `folder`, a progress bar, and the pictures that the journal does not have yet.

    Raises:
        InputError: the folder holds results of another embedding id.
    """
    if force:
        _remove_earlier(folder, {picture.name for picture in pictures})
    dimension = explainer.manifest.encoder.dimension
    with (
        Journal(
            folder,
            embedding_id=explainer.embedding_id,
            dimension=dimension,
            target=toward,
            force=force,
        ) as journal,
        progress(len(pictures), quiet=quiet) as bar,
    ):
        todo = [picture for picture in pictures if picture.name not in journal.done]
        bar.update(len(pictures) - len(todo))
        yield journal, bar, todo


def _remove_earlier(folder: Path, names: set[str]) -> None:
    """Remove what an earlier run noted that it wrote for these pictures, whatever its form."""
    if not (folder / LINES).is_file():
        return
    for text in (folder / LINES).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # half a line, of a run that was killed
            continue
        if isinstance(line, dict) and line.get("name") in names:
            for file in line.get("files", {}).values():
                (folder / file).unlink(missing_ok=True)


def write_parquet(folder: Path) -> Path:
    """Write the journal's embeddings.npy as embeddings.parquet too: columns `name` and `embedding`.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "pyarrow is not installed", expected="pyarrow, which writes Parquet", cure="pip install pyarrow"
        ) from error
    with (folder / LINES).open(encoding="utf-8") as file:
        names = [json.loads(line)["name"] for line in file]
    embeddings = np.load(folder / ROWS)
    path = folder / "embeddings.parquet"
    rows = pyarrow.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    with atomic_file(path) as temporary:
        parquet.write_table(pyarrow.table({"name": names, "embedding": rows}), temporary)
    return path


def write_files(
    explanation: Explanation,
    picture: NamedImage,
    folder: Path,
    *,
    masks: str,
    overlays: str,
    draw: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write what one picture's explanation is asked for; returns its line for the journal.

    Raises:
        InputError: the picture is larger than a JPEG can be.
    """
    files: dict[str, str] = {}
    if overlays != "none":
        files["overlay"] = f"{picture.name}{OVERLAY}.{overlays}"
        encode = {"jpg": encode_jpeg, "png": encode_png}[overlays]
        with atomic_file(folder / files["overlay"]) as temporary:
            temporary.write_bytes(encode(explanation.overlay(**(draw or {}))))
    if masks != "none":
        files["mask"] = f"{picture.name}{MASK}.{masks}"
        with atomic_file(folder / files["mask"]) as temporary, temporary.open("wb") as file:
            if masks == "npy":
                np.save(file, explanation.mask)
            else:
                file.write(encode_png((explanation.mask * 65535 + 0.5).astype(np.uint16)))
    return {"name": picture.name, "image": str(picture.image), "files": files, **explanation.facts()}


def _skipped(picture: NamedImage, error: InputError) -> dict[str, str]:
    return {"image": str(picture.image), "error": f"{error.came}; {error.cure}"}
