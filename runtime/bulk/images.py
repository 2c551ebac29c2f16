"""Explain many images: decode, compute and write at the same time, in order; a stopped run goes on."""

from __future__ import annotations

import importlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.bulk.journal import LINES, ROWS, RUN, Journal, RunRecord, write_json
from runtime.errors import BackendUnavailable, InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.media.decode import pillow
from runtime.media.encode import encode_jpeg, encode_png
from runtime.media.geometry import load_image
from runtime.media.overlay import STYLES
from runtime.media.sources import MASK, OVERLAY, NamedImage
from runtime.package.folder import Package
from runtime.progress import progress

MASKS = ("npy", "png", "none")
"""How masks are written: float32, 16-bit grey (65535 is 1), or not at all."""
OVERLAYS = ("jpg", "png", "none")
"""How overlays are written.  JPEG takes a tenth of PNG's time and a sixth of its space."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is written for each image."""

    masks: str = "npy"
    """One of `MASKS`."""
    overlays: str = "jpg"
    """One of `OVERLAYS`."""
    keep: float | None = None
    """Argument of `Explanation.overlay`."""
    style: str = STYLES[0]
    """Argument of `Explanation.overlay`."""
    longest: int | None = None
    """Longest side of an overlay in pixels; larger ones are made smaller."""


class Outcome(NamedTuple):
    """What a run did."""

    written: list[str]
    """Names of the images that were explained now."""
    known: int
    """Number of images that an earlier run had explained."""
    skipped: list[dict[str, str]]
    """Images that could not be read: `image` and `error`."""


def explain_images(
    explainer: Explainer,
    images: list[NamedImage],
    folder: Path,
    form: Form = Form(),
    *,
    package: Package | None = None,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    note: Callable[[Explanation], dict[str, Any]] | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Explain each image that is not in the folder's journal yet.

    Writes NAME.overlay.jpg and NAME.mask.npy (or .png) for each, a line and a row in the journal
    (`runtime.bulk.journal`).  An image that cannot be read or drawn is skipped and listed.  When stopped,
    what is in the journal is complete, and the next run does the rest.

    Args:
        package: the explainer's; if given, a `RunRecord` is written.
        toward: a target for all images, float32 (D,).
        note: returns more fields for an image's line in the journal; called in this thread.
        force: start anew: forget the journal, replace files.
        quiet: no progress bar.

    Raises:
        InputError: the folder holds results of another embedding id.
    """
    outcome = Outcome([], 0, [])
    begin = begun(explainer, images, folder, form, package=package, toward=toward, force=force, quiet=quiet)
    with begin as (journal, bar, todo):
        decoded: deque[NamedImage] = deque()
        frames = _frames(todo, decoded, outcome.skipped, bar)
        for explanation in explainer.stream(frames, toward=toward, fidelity=fidelity):
            image = decoded.popleft()
            bar.update()
            try:
                line = write_files(explanation, image, folder, form)
                line.update(note(explanation) if note else {})
            except InputError as error:
                outcome.skipped.append(skipped(image.image, error))
                continue
            journal.add(line, explanation.embedding)
            outcome.written.append(image.name)
    return outcome._replace(known=len(images) - len(todo))


def _frames(
    todo: list[NamedImage], decoded: deque[NamedImage], unreadable: list[dict[str, str]], bar: Any
) -> Iterator[np.ndarray]:
    """Decode images uint8 (H, W, 3); each is appended to `decoded` or to `unreadable`."""
    for image in todo:
        try:
            frame = load_image(image.image)
        except InputError as error:
            unreadable.append(skipped(image.image, error))
            bar.update()
            continue
        decoded.append(image)
        yield frame


@contextmanager
def begun(
    explainer: Explainer,
    images: list[NamedImage],
    folder: Path,
    form: Form,
    *,
    package: Package | None,
    toward: np.ndarray | None,
    force: bool,
    quiet: bool,
) -> Iterator[tuple[Journal, Any, list[NamedImage]]]:
    """Open the journal of `folder` and a progress bar; also yields the images that the journal lacks.

    Raises:
        InputError: the folder holds results of another embedding id.
    """
    if force:
        _remove_earlier(folder, {image.name for image in images})
    dimension, id = explainer.manifest.encoder.dimension, explainer.embedding_id
    with (
        closing(Journal(folder, embedding_id=id, dimension=dimension, target=toward, force=force)) as journal,
        progress(len(images), quiet=quiet) as bar,
    ):
        if package is not None:
            record = RunRecord(
                package=str(package.path.resolve()),
                package_hash=package.hash,
                embedding_id=explainer.embedding_id,
                backend=explainer.backend.name,
                precision=explainer.backend.precision,
                keep=form.keep,
                style=form.style,
                written=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )
            write_json(folder / RUN, asdict(record))
        todo = [image for image in images if image.name not in journal.done]
        bar.update(len(images) - len(todo))
        yield journal, bar, todo


def _remove_earlier(folder: Path, names: set[str]) -> None:
    """Remove the files that an earlier run's journal lists for these images."""
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
        BackendUnavailable: pyarrow is not installed.
    """
    parquet = library("pyarrow.parquet", "pyarrow, which writes Parquet", "pip install pyarrow")
    import pyarrow

    with (folder / LINES).open(encoding="utf-8") as file:
        names = [json.loads(line)["name"] for line in file]
    embeddings = np.load(folder / ROWS)
    path = folder / "embeddings.parquet"
    rows = pyarrow.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    with atomic_file(path) as temporary:
        parquet.write_table(pyarrow.table({"name": names, "embedding": rows}), temporary)
    return path


def write_files(explanation: Explanation, image: NamedImage, folder: Path, form: Form) -> dict[str, Any]:
    """Write the files of one image's explanation; returns its line for the journal.

    Raises:
        InputError: the image is larger than a JPEG can be.
    """
    files: dict[str, str] = {}
    if form.overlays != "none":
        files["overlay"] = f"{image.name}{OVERLAY}.{form.overlays}"
        overlay = _shrunk(explanation.overlay(keep=form.keep, style=form.style), form.longest)
        encode = {"jpg": encode_jpeg, "png": encode_png}[form.overlays]
        with atomic_file(folder / files["overlay"]) as temporary:
            temporary.write_bytes(encode(overlay))
    if form.masks != "none":
        files["mask"] = f"{image.name}{MASK}.{form.masks}"
        with atomic_file(folder / files["mask"]) as temporary, temporary.open("wb") as file:
            if form.masks == "npy":
                np.save(file, explanation.mask)
            else:
                file.write(encode_png((explanation.mask * 65535 + 0.5).astype(np.uint16)))
    return {"name": image.name, "image": str(image.image), "files": files, **explanation.facts()}


def _shrunk(overlay: np.ndarray, longest: int | None) -> np.ndarray:
    """uint8 (H, W, 3), made smaller if a side is longer than `longest` pixels."""
    if longest is None or max(overlay.shape) <= longest:
        return overlay
    image = pillow().fromarray(overlay)
    image.thumbnail((longest, longest))
    return np.asarray(image)


def library(module: str, expected: str, cure: str) -> Any:
    """Import a library that only some installations have.  Raises `BackendUnavailable`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendUnavailable(
            f"{module} cannot be imported ({error})", expected=expected, cure=cure
        ) from error


def skipped(image: Path | str, error: InputError) -> dict[str, str]:
    """An entry of `Outcome.skipped`."""
    return {"image": str(image), "error": f"{error.came}; {error.cure}"}
