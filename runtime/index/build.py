"""Images → an index: explain them into the journal, then write its rows into a store."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_folder, refuse_existing
from runtime.bulk.images import Form, Outcome, explain_images
from runtime.bulk.journal import LINES, ROWS, write_json
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.canary import write_sample
from runtime.index.code import encode_mask
from runtime.index.search import RECORD, SCHEMA, IndexRecord
from runtime.index.stores import LEVELS, STORES, Row, library_of
from runtime.media.sources import NamedImage
from runtime.package.folder import Package


class Indexed(NamedTuple):
    """What a run did."""

    outcome: Outcome
    record: IndexRecord
    sample: int
    """Number of images that the canary keeps."""
    sample_bytes: int
    """Size of their files."""


def index_images(
    explainer: Explainer,
    package: Package,
    images: list[NamedImage],
    folder: Path,
    *,
    store: str = "parquet",
    fidelity: bool = True,
    force: bool = False,
    quiet: bool = False,
) -> Indexed:
    """Explain each image that the folder's journal does not have yet, and write all rows into the store.

    An image that cannot be read is skipped and listed.  If stopped at any moment, the next run does the
    rest.  The rows of an earlier run, in any store, are replaced; a folder that no earlier run wrote is not.

    Args:
        package: the explainer's; its path and hash are recorded.
        store: a key of `runtime.index.stores.STORES`.
        fidelity: measure what each mask keeps, for the column `kept`; doubles the time.
        force: start anew.
        quiet: no progress bar.

    Raises:
        InputError: no image could be read; the folder holds results of another embedding id, or those of
            `nemu explain`.
        OutputExists: the store's folder exists, not of an earlier index, and `force` is not given.
        BackendUnavailable: the store's library is not installed.
    """
    earlier = _check(folder, store, force=force)  # before minutes of work
    options: dict[str, Any] = {"fidelity": fidelity, "note": _noted, "force": force, "quiet": quiet}
    outcome = explain_images(explainer, images, folder, Form(masks="none", overlays="none"), **options)
    rows = _rows(folder)
    if not rows:
        raise InputError(
            f"none of {len(images)} images could be read ({outcome.skipped[0]['error']})",
            expected="at least one",
            cure="check the files",
        )
    record = IndexRecord(
        schema=SCHEMA,
        embedding_id=explainer.embedding_id,
        dimension=explainer.manifest.encoder.dimension,
        rows=len(rows),
        store=store,
        package=str(package.path.resolve()),
        package_hash=package.hash,
    )
    sample, size = _write(folder, record, earlier, rows, new=set(outcome.written))
    return Indexed(outcome, record, sample, size)


def _check(folder: Path, store: str, *, force: bool) -> str | None:
    """Refuse to overwrite what is no earlier index; returns the store of the earlier index, if there is one.

    Raises as `index_images`.
    """
    library_of(store)
    try:
        earlier = IndexRecord.open(folder).store
    except InputError:
        earlier = None
    first = b""
    if (folder / LINES).is_file():
        with (folder / LINES).open("rb") as file:
            first = file.readline()
    mine = b'"mask_code"' in first
    refuse_existing(folder / store, force=force or earlier == store or (earlier is None and mine))
    if first.endswith(b"\n") and not (mine or force):
        raise _not_an_index(folder)
    return earlier


def _write(
    folder: Path, record: IndexRecord, earlier: str | None, rows: list[Row], *, new: set[str]
) -> tuple[int, int]:
    """Write the rows, the canary's sample and the record, and remove the earlier store.

    Returns:
        Number of images in the sample, and total size of their files in bytes.
    """
    store = record.store
    with atomic_folder(folder / store, force=True) as temporary:
        STORES[store].write(temporary, rows)
    if earlier not in (None, store):
        shutil.rmtree(folder / str(earlier), ignore_errors=True)
    (folder / RECORD).unlink(missing_ok=True)  # until it is written again, the parts may be of two runs
    written = write_sample(folder, rows, new=new)
    write_json(folder / RECORD, asdict(record))
    return written


def _noted(explanation: Explanation) -> dict[str, Any]:
    """Fields of a journal line that a row needs beyond `Explanation.facts`."""
    known = explanation.curve is not None
    return {
        "mask_code": base64.b64encode(encode_mask(explanation.graph_mask)).decode(),
        "curve": [round(explanation.kept_at(level), 6) for level in LEVELS] if known else None,
    }


def _rows(folder: Path) -> list[Row]:
    """Rows of an index's journal, in its order.  Raises `InputError`: a line has no mask code."""
    embeddings = np.load(folder / ROWS, mmap_mode="r")
    lines = [json.loads(line) for line in (folder / LINES).read_bytes().splitlines()]
    if not all({"mask_code", "curve"} <= line.keys() for line in lines):
        raise _not_an_index(folder)
    for line, embedding in zip(lines, embeddings, strict=True):
        code = base64.b64decode(line["mask_code"])
        line |= {"embedding": embedding, "mask_code": code, "kept": line["fidelity"]}
    return [Row.of(line) for line in lines]


def _not_an_index(folder: Path) -> InputError:
    return InputError(
        f"{folder / LINES} has images without a mask code",
        expected="the journal of an index",
        cure="index into another folder, or add --force to start anew",
    )
