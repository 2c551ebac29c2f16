"""Under which licence every picture is that the data of `benchmarks.natural` are made of."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from runtime.errors import InputError

IN_PYTHON_PACKAGES = {
    "astronaut.png": "public domain (NASA)",
    "coffee.png": "CC0",
    "rocket.jpg": "CC0",
    "chelsea.png": "CC0",
    "motorcycle_left.png": "Middlebury stereo data of 2014, as skimage.data.stereo_motorcycle cites it",
    "brick.png": "CC0",
    "grass.png": "CC0",
    "gravel.png": "CC0",
    "china.jpg": "CC-BY-2.0",
    "flower.jpg": "CC-BY-2.0",
}
"""Of scikit-image and scikit-learn, as their documentation says."""


def licence(path: Path, *, package: str, debs: Path) -> str:
    """Of one file of a Debian package, from the `copyright` that the package carries.

    Raises:
        InputError: the package's file is not there, or does not cover the file.
    """
    source = debs / "usr/share/doc" / package / "copyright"
    if not source.is_file():
        raise InputError(
            f"{source}: no such file",
            expected=f"the package {package}, unpacked whole",
            cure=f"dpkg -x {package}_….deb {debs}",
        )
    found = [name for patterns, name in _paragraphs(source.read_text()) if _covers(patterns, path)]
    if not found:
        raise InputError(
            f"{source} says nothing of {path.name}", expected="a licence of every file", cure="leave it out"
        )
    return found[-1]  # the format's rule: the last paragraph that matches


def _covers(patterns: list[str], path: Path) -> bool:
    """Patterns are of the source package, whose folders are not those it is installed in."""
    return any(fnmatch.fnmatch(path.name, pattern.rpartition("/")[2]) for pattern in patterns)


def _paragraphs(text: str) -> list[tuple[list[str], str]]:
    """Patterns and licence of every `Files:` paragraph, but the packaging's own."""
    found = []
    for paragraph in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields.setdefault(name, []).append(line.strip())
            else:
                name, _, value = line.partition(":")
                fields[name] = [value.strip()]
        patterns = " ".join(fields.get("Files", [])).split()
        if patterns and "License" in fields and not patterns[0].startswith("debian/"):
            found.append((patterns, fields["License"][0]))
    return found
