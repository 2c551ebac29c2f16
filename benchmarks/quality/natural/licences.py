"""Licence of every image that the data of `python -m benchmarks.natural_data` are made of."""

from __future__ import annotations

import fnmatch
import re
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
"""Licences of the photographs in scikit-image and scikit-learn, from their documentation."""


_PICTURE = re.compile(r"\.(jpe?g|png|webp)$")


def licence(path: Path, *, package: str, debs: Path) -> tuple[str, str]:
    """Licence and copyright holder of one file of a Debian package, from the `copyright` that it carries.

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
    found = [terms for patterns, terms in _paragraphs(source.read_text()) if _covers(patterns, path)]
    if not found:
        raise InputError(
            f"{source} says nothing of {path.name}", expected="a licence of every file", cure="leave it out"
        )
    return found[-1]  # the format's rule: the last paragraph that matches


def _covers(patterns: list[str], path: Path) -> bool:
    """By the end of the path, or the name: patterns are of the source package, whose folders may differ.

    Whether an image is .jpg, .png or .webp does not count: packaging converts them.
    """
    end, name = (_PICTURE.sub("", text) for text in (f"/{path.as_posix()}", path.name))
    for pattern in (_PICTURE.sub("", pattern) for pattern in patterns):
        if fnmatch.fnmatch(end, f"*/{pattern}"):
            return True
        if not pattern.endswith("/*") and fnmatch.fnmatch(name, pattern.rpartition("/")[2]):
            return True
    return False


def _paragraphs(text: str) -> list[tuple[list[str], tuple[str, str]]]:
    """Patterns, licence and holder of every `Files:` paragraph, but the packaging's own."""
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
            found.append((patterns, (fields["License"][0], "; ".join(fields.get("Copyright", [])))))
    return found
