"""Where pictures come from: files, folders, patterns, a list on standard input; and what each is called."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InputError
from runtime.image import find_images

OVERLAY, MASK = ".overlay", ".mask"
"""How the names of what `runtime.explain` writes end, before the suffix."""


class Picture(NamedTuple):
    """One picture, and what its results are called."""

    image: Path
    name: str
    """A path below the folder of results, without a suffix; `/` between its parts."""


def find_pictures(sources: Iterable[str | Path]) -> list[Picture]:
    """Find the pictures and give each a name of its own.

    A picture of a folder keeps its path inside that folder, without the suffix; a file keeps its stem.
    Where two would get one name, both keep their suffix, and their path below the folder they share.
    What an earlier run wrote (NAME.overlay.jpg beside its mask) is not taken for a picture.

    Args:
        sources: files, folders (searched recursively), patterns such as `photos/*.jpg` for a shell that
            does not expand them, or `-` for paths on standard input, a line each.

    Raises:
        InputError: a path that does not exist, a folder or pattern without pictures.
    """
    names: dict[Path, Path] = {}  # each picture once, by its real path
    for given in _expand(sources):
        for image in find_images(given):
            if not _is_overlay(image):
                name = image.relative_to(given) if given.is_dir() else Path(image.name)
                names.setdefault(image.resolve(), name.with_suffix(""))
    for clashing in _clashes(names):
        shared = os.path.commonpath([image.parent for image in clashing])
        names.update({image: image.relative_to(shared) for image in clashing})
    for clashing in _clashes(names):
        raise InputError(
            "two pictures would get one name: " + ", ".join(map(str, clashing)),
            expected="inputs whose names tell them apart",
            cure="explain them into two folders",
        )
    return [Picture(image, name.as_posix()) for image, name in names.items()]


def _expand(sources: Iterable[str | Path]) -> Iterator[Path]:
    for source in map(str, sources):
        if source == "-":
            yield from (Path(line) for line in map(str.strip, sys.stdin) if line)
        elif glob.has_magic(source) and not Path(source).exists():
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise InputError(
                    f"no file matches {source}",
                    expected="a pattern that matches files",
                    cure="check the path",
                )
            yield from map(Path, found)
        else:
            yield Path(source)


def _is_overlay(image: Path) -> bool:
    stem = image.stem.removesuffix(OVERLAY)
    return stem != image.stem and any(
        image.with_name(f"{stem}{MASK}{end}").is_file() for end in (".npy", ".png")
    )


def _clashes(names: dict[Path, Path]) -> Iterator[list[Path]]:
    """Groups of pictures with one name."""
    count = Counter(names.values())
    for name in [name for name, uses in count.items() if uses > 1]:
        yield [image for image, other in names.items() if other == name]
