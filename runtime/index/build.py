"""Images → an index: explain them into the journal, then write its rows into a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from runtime.atomic import atomic_folder, refuse_existing
from runtime.bulk.images import Form, Outcome, explain_images
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.index.canary import write_sample
from runtime.index.opened import RECORD, SCHEMA, IndexRecord
from runtime.index.row import Row, has_rows, journal_rows, noted, refuse_other
from runtime.index.stores import STORES, library
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
    options: dict[str, Any] = {"fidelity": fidelity, "note": noted, "force": force, "quiet": quiet}
    outcome = explain_images(explainer, images, folder, Form(masks="none", overlays="none"), **options)
    rows = journal_rows(folder)
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
    library(store)
    earlier = _earlier_store(folder)
    stopped = earlier is None and has_rows(folder)
    refuse_existing(folder / store, force=force or earlier == store or stopped)
    if not force:
        refuse_other(folder)
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
    record.write(folder)
    return written


def _earlier_store(folder: Path) -> str | None:
    """Store of the existing index; None if there is no index or no readable record."""
    try:
        return IndexRecord.open(folder).store
    except InputError:
        return None
