"""The canary of an index: a sample of its pictures, their bytes and all, and what became of them then.

After an upgrade of anything (Pillow, a driver, the package) the sample is embedded again.  It needs neither
the pictures' files nor the network.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.diff import Difference, K, iou
from runtime.errors import InputError, ParityError, UnusableOutput
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.code import decode_mask, encode_mask
from runtime.index.opened import Index
from runtime.index.row import Row
from runtime.occlusion import cosine
from runtime.parity import LIMITS, median_distance
from runtime.progress import progress

FILE = "canary.npz"
MOST = 32
"""Pictures."""
MOST_BYTES = 64 << 20
"""Of their files, together; a file that no longer fits is left out."""
LEAST_MASK_IOU = 0.9


class Sample(NamedTuple):
    """What `FILE` holds, row i for picture i."""

    names: list[str]
    pictures: list[bytes]
    """Whole files, so that decoding and resizing are tested too."""
    embeddings: np.ndarray
    """float32 (n, D), as they were indexed."""
    codes: list[bytes]
    """Of their masks."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """What became of the sample."""

    difference: Difference
    """Index against package; recall is measured in the whole index."""
    embedding_error: float | None
    """Worst picture: distance between its two embeddings / median distance between different pictures; None
    where the dimensions differ, or there is no picture to compare."""
    sample: int
    """Pictures that the index keeps; `difference` is of those that could be explained again."""
    unreadable: int = 0
    """Of them, those that can no longer be decoded."""
    unusable: int = 0
    """Of them, those whose new outputs are no answer (`UnusableOutput`)."""

    @property
    def holds(self) -> bool:
        """Whether the index still gives the answers that it gave."""
        return not self.objections()

    def objections(self) -> list[str]:
        """What is against it, in sentences."""
        found, said = self.difference, []
        if found.old_id != found.new_id:
            said.append(f"the index holds {found.old_id}, and this package gives {found.new_id}")
        if self.unreadable:
            said.append(f"{self.unreadable} of {self.sample} stored pictures can no longer be read")
        if self.unusable:
            said.append(f"{self.unusable} of {self.sample} stored pictures give values that are no answer")
        if not found.n:
            return said
        said += found.objections()
        limit = self._limit()
        if limit is not None and self.embedding_error is not None and self.embedding_error > limit:
            said.append(
                f"the id is the same and the embeddings are not: error {self.embedding_error:.2e} is above "
                f"{limit:.0e}; pictures are decoded or resized otherwise, or the backend computes otherwise"
            )
        if found.mask_iou < LEAST_MASK_IOU:
            said.append(f"the masks have an IoU of {found.mask_iou:.3f} < {LEAST_MASK_IOU} with those stored")
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        fields = dataclasses.asdict(self.difference)
        verdict = {"holds": self.holds, "objections": self.objections()}
        counts = {name: getattr(self, name) for name in ("sample", "unreadable", "unusable")}
        measured = {"embedding_error": self.embedding_error, "limit": self._limit()}
        return {**fields, **counts, **measured, **verdict}

    def _limit(self) -> float | None:
        """Largest `embedding_error` under one id: two runs that passed the gate are no further apart."""
        same = self.difference.old_id == self.difference.new_id
        precision = self.difference.new_id.rpartition("-")[2]
        return 2 * LIMITS[precision].embedding if same and precision in LIMITS else None


def write_sample(folder: Path, rows: Sequence[Row], *, new: Set[str]) -> tuple[int, int]:
    """Write `FILE`: up to `MOST` pictures, spread over the rows, that fit into `MOST_BYTES`.

    A picture of the earlier sample that is still in the rows stays as it was.  Of the others, only those that
    were indexed now are taken, if their files can be read: others may have changed since.

    Args:
        new: names of the rows that were indexed now; without an earlier sample, all rows are taken for new.

    Returns:
        How many pictures, and the bytes of their files.
    """
    held = _held(folder, rows)
    fresh = [i for i, row in enumerate(rows) if i not in held and (not held or row.name in new)]
    pictures: dict[int, bytes] = {}
    for i in [*_spread([*held, *fresh], len(rows)), *held]:  # at last, what files that are gone left room for
        picture = held[i] if i in held else _file(rows[i])
        size = sum(map(len, pictures.values())) + len(picture)
        if i not in pictures and picture and len(pictures) < MOST and size <= MOST_BYTES:
            pictures[i] = picture
    chosen = [(rows[i], picture) for i, picture in sorted(pictures.items())]
    arrays: dict[str, np.ndarray] = {
        "names": np.array([row.name for row, _ in chosen], np.str_),
        "embeddings": np.array([row.embedding for row, _ in chosen], np.float32),
    }
    for i, (row, picture) in enumerate(chosen):
        arrays[f"picture{i}"] = np.frombuffer(picture, np.uint8)
        arrays[f"code{i}"] = np.frombuffer(row.mask_code, np.uint8)
    with atomic_file(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return len(chosen), sum(map(len, pictures.values()))


def _held(folder: Path, rows: Sequence[Row]) -> dict[int, bytes]:
    """Row → picture of the earlier sample, where the row still has the embedding that it had."""
    if not (folder / FILE).is_file():
        return {}
    try:
        sample = _read(folder / FILE)
    except InputError as error:
        print(f"warning: {error.came}: another sample is made", file=sys.stderr)
        return {}
    known = {name: i for i, name in enumerate(sample.names)}
    at = {i: known[row.name] for i, row in enumerate(rows) if row.name in known}
    return {
        i: sample.pictures[j]
        for i, j in at.items()
        if np.array_equal(sample.embeddings[j], rows[i].embedding)
    }


def _spread(available: list[int], n: int) -> list[int]:
    """Up to `MOST` of these rows of n: each the nearest, that is not taken, to one of as many even steps."""
    left = np.array(sorted(available), int)
    taken = []
    for step in np.linspace(0, n - 1, min(MOST, len(left))):
        nearest = int(np.abs(left - step).argmin())
        taken.append(int(left[nearest]))
        left = np.delete(left, nearest)
    return taken


def _file(row: Row) -> bytes:
    """The picture's file; nothing if it cannot be read, or is larger than all that is kept."""
    path = Path(row.image)
    try:
        return path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return b""


def read_sample(folder: Path) -> Sample:
    """Read `FILE`; nothing in it is unpickled.

    Raises:
        InputError: it is missing or broken, or holds fewer than two pictures.
    """
    sample = _read(folder / FILE)
    if len(sample.names) < 2:
        raise _unusable(f"{folder / FILE} holds {len(sample.names)} of the pictures")
    return sample


def _read(path: Path) -> Sample:
    try:
        with np.load(path, allow_pickle=False) as held:
            names = [str(name) for name in held["names"]]
            several = [
                [held[f"{kind}{i}"].tobytes() for i in range(len(names))] for kind in ("picture", "code")
            ]
            return Sample(names, several[0], np.asarray(held["embeddings"], np.float32), several[1])
    except Exception as error:  # np.load raises many kinds on a broken file
        raise _unusable(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def check(index: Index, explainer: Explainer, *, quiet: bool = False) -> Canary:
    """Embed the sample of an index again, with this explainer; `quiet`: no progress bar.

    Raises:
        InputError: the index has no sample that can be read, or only pictures that are all alike.
    """
    sample = read_sample(index.folder)
    unit = _unit(sample.embeddings)
    found, unreadable, unusable = _again(explainer, sample, quiet=quiet)
    difference, distance = _difference(index, explainer, sample, found)
    return Canary(
        difference=difference,
        embedding_error=None if distance is None else distance / unit,
        sample=len(sample.names),
        unreadable=unreadable,
        unusable=unusable,
    )


def _again(explainer: Explainer, sample: Sample, *, quiet: bool) -> tuple[dict[int, Explanation], int, int]:
    """Picture of the sample → its explanation now; how many cannot be decoded, and give no usable outputs."""
    found: dict[int, Explanation] = {}
    unreadable = unusable = 0
    with progress(len(sample.names), quiet=quiet) as bar:
        for i, picture in enumerate(sample.pictures):
            try:
                found[i] = explainer(picture)
            except InputError:
                unreadable += 1
            except UnusableOutput:
                unusable += 1
            bar.update()
    return found, unreadable, unusable


def _difference(
    index: Index, explainer: Explainer, sample: Sample, explanations: dict[int, Explanation]
) -> tuple[Difference, float | None]:
    """Of the pictures that were explained again; and the largest distance between two embeddings of one."""
    new = np.array([one.embedding for one in explanations.values()], np.float32)
    old = sample.embeddings[list(explanations)]
    alike = len(explanations) > 0 and new.shape == old.shape
    cosines = [cosine(a, b) for a, b in zip(old, new, strict=True)] if alike else []
    k = min(K, index.record.rows - 1)
    recalls = _recalls(index, k, [sample.names[i] for i in explanations], old, new) if alike else []
    # The stored masks went through the code, and so do these: the same mask gives the same code.
    masks = [
        (decode_mask(sample.codes[i]), decode_mask(encode_mask(one.graph_mask)))
        for i, one in explanations.items()
    ]
    same_grid = bool(masks) and all(a.shape == b.shape for a, b in masks)
    difference = Difference(
        old_id=index.record.embedding_id,
        new_id=explainer.embedding_id,
        n=len(explanations),
        k=k,
        least_cosine=min(cosines) if alike else None,
        median_cosine=float(np.median(cosines)) if alike else None,
        recall=float(np.mean(recalls)) if alike else None,
        recall_spread=float(np.std(recalls)) if alike else None,
        mask_iou=float(np.mean([iou(a > 0.5, b > 0.5) for a, b in masks])) if same_grid else 0.0,
        mask_difference=float(np.mean([np.abs(a - b).mean() for a, b in masks])) if same_grid else 1.0,
    )
    return difference, float(np.linalg.norm(new - old, axis=1).max()) if alike else None


def _unit(embeddings: np.ndarray) -> float:
    try:
        return median_distance(embeddings)
    except ParityError as error:  # which would read as a verdict
        raise _unusable(error.came) from error


def _recalls(index: Index, k: int, names: list[str], old: np.ndarray, new: np.ndarray) -> list[float]:
    """Of the k rows nearest to each old embedding (itself left out), the share that are near the new one."""
    shares = []
    for name, before, after in zip(names, old, new, strict=True):
        near = [[hit.row.name for hit in index.nearest(one, k + 1)] for one in (before, after)]
        truth, found = (set([other for other in one if other != name][:k]) for one in near)
        shares.append(len(truth & found) / k)
    return shares


def _unusable(came: str) -> InputError:
    return InputError(
        came,
        expected="an index with at least two of its own pictures, not all alike",
        cure="index the pictures again, while their files are there: nemu index PACKAGE PHOTOS --out INDEX",
    )
