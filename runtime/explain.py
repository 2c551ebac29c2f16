"""Explain files and folders from the command line: what goes where, then one picture after the other."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.atomic import refuse_existing
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation, SavedPaths
from runtime.image import find_images


class Job(NamedTuple):
    """One picture, and where its explanation goes."""

    image: Path
    folder: Path
    name: str

    @property
    def outputs(self) -> SavedPaths:
        """The files it will write."""
        return SavedPaths.of(self.folder, self.name)


class Outcome(NamedTuple):
    """What a run of jobs did."""

    written: list[dict[str, Any]]
    skipped: list[dict[str, str]]


def plan(inputs: Iterable[Path], out: Path) -> list[Job]:
    """Find the pictures and give each a name of its own below `out`.

    A picture of a folder keeps its path inside that folder, without the suffix; a file keeps its stem.
    Where two would get one name, both keep their suffix, and their path below the folder they share.
    What an earlier run wrote (NAME.overlay.png beside NAME.mask.npy) is not taken for a picture.

    Raises:
        InputError: a path that does not exist, or a folder without pictures.
    """
    names: dict[Path, Path] = {}  # each picture once, by its real path
    for given in inputs:
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
    return [Job(image, out / name.parent, name.name) for image, name in names.items()]


def refuse_written(jobs: Iterable[Job], *, force: bool) -> None:
    """Raise `OutputExists` for the first file that is already there; before anything is computed."""
    for job in jobs:
        for path in job.outputs:
            refuse_existing(path, force=force)


def run(explainer: Explainer, jobs: list[Job], *, force: bool, fidelity: bool = False) -> Outcome:
    """Explain each picture and write its files; one that cannot be read is skipped and listed.

    Progress goes to stderr, a line each.
    """
    outcome = Outcome([], [])
    for number, job in enumerate(jobs, 1):
        counter = f"[{number}/{len(jobs)}] {job.image}"
        try:
            explanation = explainer(job.image, fidelity=fidelity)
        except InputError as error:
            outcome.skipped.append({"image": str(job.image), "error": error.came})
            print(f"{counter}: skipped", file=sys.stderr)
            continue
        paths = explanation.save(job.folder, job.name, force=force)
        outcome.written.append(
            {"image": str(job.image), **{kind: str(path) for kind, path in paths._asdict().items()}}
        )
        print(f"{counter}: {_said(explanation)} -> {paths.overlay}", file=sys.stderr)
    return outcome


def _said(explanation: Explanation) -> str:
    parts = [f"mask mean {explanation.graph_mask.mean():.2f}"]
    parts += [f"{explanation.degenerate.upper()}: it shows nothing"] if explanation.degenerate else []
    parts += [] if explanation.fidelity is None else [f"fidelity {explanation.fidelity:.3f}"]
    return ", ".join([*parts, f"{explanation.timing['run']:.0f} ms"])


def _is_overlay(image: Path) -> bool:
    stem = image.name.removesuffix(".overlay.png")
    return stem != image.name and image.with_name(f"{stem}.mask.npy").is_file()


def _clashes(names: dict[Path, Path]) -> Iterator[list[Path]]:
    """Groups of pictures with one name."""
    count = Counter(names.values())
    for name in [name for name, uses in count.items() if uses > 1]:
        yield [image for image, other in names.items() if other == name]
