"""A progress bar with the remaining time, on stderr; one line every 10 s if that is no terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any


def progress(total: int | None, *, unit: str = "image", quiet: bool = False) -> AbstractContextManager[Any]:
    """Open a tqdm bar, which has `update(n)`.

    Args:
        total: None if the end is not known, as for a camera.
        quiet: print nothing.
    """
    from tqdm import tqdm

    every = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, unit=f" {unit}", disable=quiet, mininterval=every, dynamic_ncols=True)
