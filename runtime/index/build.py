"""Images → an index: explain them into the journal, then write its rows into a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from runtime.atomic import atomic_folder, refuse_existing
from runtime.errors import InputError
from runtime.explain import Form, Outcome, explain_images
from runtime.explainer import Explainer
from runtime.index.canary import write_sample
from runtime.index.opened import RECORD, SCHEMA, IndexRecord
from runtime.index.row import Row, has_rows, journal_rows, noted, refuse_other
from runtime.index.stores import STORES, library
from runtime.package import Package
from runtime.sources import Picture


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
    images: list[Picture],
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
    library(store)  # before minutes of work
    earlier = _earlier_store(folder)
    stopped = earlier is None and has_rows(folder)
    refuse_existing(folder / store, force=force or earlier == store or stopped)
    if not force:
        refuse_other(folder)
    form = Form(masks="none", overlays="none")
    outcome = explain_images(
        explainer, images, folder, form, fidelity=fidelity, note=noted, force=force, quiet=quiet
    )
    rows = journal_rows(folder)
    if not rows:
        raise InputError(
            f"none of {len(images)} images could be read ({outcome.skipped[0]['error']})",
            expected="at least one",
            cure="check the files",
        )
    sample, size = _write(folder, store, earlier, rows, new=set(outcome.written))
    record = IndexRecord(
        schema=SCHEMA,
        embedding_id=explainer.embedding_id,
        dimension=explainer.manifest.encoder.dimension,
        rows=len(rows),
        store=store,
        package=str(package.path.resolve()),
        package_hash=package.hash,
    )
    record.write(folder)
    return Indexed(outcome, record, sample, size)


def _write(
    folder: Path, store: str, earlier: str | None, rows: list[Row], *, new: set[str]
) -> tuple[int, int]:
    """Write the rows and the canary's sample; remove the earlier store and, until the end, the record."""
    with atomic_folder(folder / store, force=True) as temporary:
        STORES[store].write(temporary, rows)
    if earlier not in (None, store):
        shutil.rmtree(folder / str(earlier), ignore_errors=True)
    (folder / RECORD).unlink(missing_ok=True)  # until it is written again, the parts may be of two runs
    return write_sample(folder, rows, new=new)


def _earlier_store(folder: Path) -> str | None:
    """Store of the existing index; None if there is no index or no readable record."""
    try:
        return IndexRecord.open(folder).store
    except InputError:
        return None
