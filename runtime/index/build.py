"""Pictures → an index: explained into the journal, from which the rows are written into a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from runtime.atomic import atomic_folder, refuse_existing
from runtime.errors import InputError
from runtime.explain import Outcome, explain_pictures
from runtime.explainer import Explainer
from runtime.index.canary import write_sample
from runtime.index.opened import RECORD, SCHEMA, IndexRecord
from runtime.index.row import has_rows, journal_rows, noted, refuse_other
from runtime.index.stores import STORES, library
from runtime.package import Package
from runtime.sources import NamedImage


class Indexed(NamedTuple):
    """What a run did."""

    outcome: Outcome
    record: IndexRecord
    sample: int
    """Pictures that the canary keeps."""
    sample_bytes: int


def index_pictures(
    explainer: Explainer,
    package: Package,
    pictures: list[NamedImage],
    folder: Path,
    *,
    store: str = "parquet",
    fidelity: bool = True,
    force: bool = False,
    quiet: bool = False,
) -> Indexed:
    """Explain each picture that the folder's journal does not have yet, and write all rows into the store.

    A picture that cannot be read is skipped and listed.  Stopped at any moment, the next run does the rest.
    The rows of an earlier run, in whatever store, are replaced; a folder that no earlier run wrote is not.

    Args:
        package: the explainer's, to be remembered.
        store: a name of `runtime.index.stores.STORES`.
        fidelity: measure what each mask keeps, for the column `kept`: twice the time.
        force: start anew.
        quiet: no progress bar.

    Raises:
        InputError: no picture could be read; the folder holds results of another embedding id, or those of
            `nemu explain`.
        OutputExists: the store's folder is there, not of an earlier index, and `force` is not given.
        BackendUnavailable: the store's library is not installed.
    """
    library(store)  # before minutes of work
    earlier = _earlier_store(folder)
    stopped = earlier is None and has_rows(folder)
    refuse_existing(folder / store, force=force or earlier == store or stopped)
    if not force:
        refuse_other(folder)
    outcome = explain_pictures(
        explainer,
        pictures,
        folder,
        masks="none",
        overlays="none",
        fidelity=fidelity,
        note=noted,
        force=force,
        quiet=quiet,
    )
    rows = journal_rows(folder)
    if not rows:
        raise InputError(
            f"none of {len(pictures)} pictures could be read ({outcome.skipped[0]['error']})",
            expected="at least one",
            cure="check the files",
        )
    with atomic_folder(folder / store, force=True) as temporary:
        STORES[store].write(temporary, rows)
    if earlier not in (None, store):
        shutil.rmtree(folder / str(earlier), ignore_errors=True)
    (folder / RECORD).unlink(missing_ok=True)  # from here to the end, the parts may be of two runs
    sample, size = write_sample(folder, rows, new=set(outcome.written))
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


def _earlier_store(folder: Path) -> str | None:
    """The store of the index that is there; None if there is none, or no record of it that can be read."""
    try:
        return IndexRecord.open(folder).store
    except InputError:
        return None
