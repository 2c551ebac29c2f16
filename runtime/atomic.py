"""Write a file or a folder under a temporary name and rename it when it is complete.

A full disk, an exception or Ctrl-C leaves nothing half-written behind; `kill -9` leaves at most a
hidden `.*.tmp` beside the target, never a broken target.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import OutputExists


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise `OutputExists` if `path` is there and `force` is not given.

    Call it before long work, not after it.
    """
    if path.exists() and not force:
        raise OutputExists(
            f"{path} already exists",
            expected="a path that does not exist yet",
            cure="choose another path, or add --force to replace it",
        )


@contextlib.contextmanager
def atomic_file(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder (same suffix); rename it to `path` on success.

    The body of the `with` makes the file.  The name is chosen before the file exists, so that Ctrl-C cannot
    leave it behind at any moment.
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.urandom(6).hex()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` on success.

    With `force` an existing `path` is replaced: it is moved aside first and removed only after the new folder
    is in place, so that one complete folder exists at every moment.
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.urandom(6).hex()}.tmp")
    aside = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        try:
            if path.exists():
                os.replace(path, aside)
            os.replace(temporary, path)
        except BaseException:
            if aside.exists() and not path.exists():
                os.replace(aside, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
