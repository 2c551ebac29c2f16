"""A progress bar with the time that is left, on stderr; plain lines where that is no terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any


def progress(total: int | None, *, unit: str = "picture", quiet: bool = False) -> AbstractContextManager[Any]:
    """A tqdm bar: `update(n)`.

    Args:
        total: None where the end is not known, as of a camera.
        quiet: count without a word.
    """
    from tqdm import tqdm

    every = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, unit=f" {unit}", disable=quiet, mininterval=every, dynamic_ncols=True)
