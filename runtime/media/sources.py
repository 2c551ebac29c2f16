"""Finds images: in files, folders, patterns and a list on standard input; and gives each result a name."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""File names that `find_images` takes as images, in upper or lower case."""
OVERLAY, MASK = ".overlay", ".mask"
"""Ends of the names that `nemu explain` gives its results, before the suffix."""


class NamedImage(NamedTuple):
    """An image file, and the name of its results."""

    image: Path
    name: str
    """A path below the folder of results, without a suffix; `/` between its parts."""


def find_images(path: Path) -> list[Path]:
    """Find the images below a folder, recursively, sorted; a file is returned itself, whatever its name.

    An image is a file with one of `EXTENSIONS`; hidden files and folders are left out.

    Raises:
        InputError: no such path, or a folder without images.
    """
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    images = sorted(file for file in found if file.suffix.lower() in EXTENSIONS)
    if not images:
        what = f"holds no images ({len(found)} other files)" if path.is_dir() else "does not exist"
        raise InputError(
            f"{path} {what}",
            expected="an image, or a folder with " + ", ".join(EXTENSIONS),
            cure="check the path",
        )
    return images


def find_named_images(sources: Iterable[str | Path]) -> list[NamedImage]:
    """Find images and give each a name of its own.

    An image of a folder is named by its path inside that folder, without the suffix; a file by its stem.
    Where two images would get one name, both keep their suffix, and their path below the folder they share.
    Overlays of an earlier run (NAME.overlay.jpg beside its mask) are not taken as images.

    Args:
        sources: files, folders (searched recursively), patterns such as `photos/*.jpg` for a shell that
            does not expand them, or `-` for paths on standard input, one a line.

    Raises:
        InputError: a path that does not exist, a folder or pattern without images.
    """
    names: dict[Path, Path] = {}  # each image once, by its real path
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
            "two images would get one name: " + ", ".join(map(str, clashing)),
            expected="inputs whose names tell them apart",
            cure="explain them into two folders",
        )
    return [NamedImage(image, name.as_posix()) for image, name in names.items()]


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
    """Groups of images with one name."""
    count = Counter(names.values())
    for name in [name for name, uses in count.items() if uses > 1]:
        yield [image for image, other in names.items() if other == name]
