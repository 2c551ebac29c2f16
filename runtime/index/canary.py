"""The canary of an index: a sample of its images with their embeddings and masks, stored in the index.

After an upgrade of anything (Pillow, a driver, the package) the sample is embedded again and compared.
This needs neither the original files nor the network.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError, ParityError, UnusableOutput
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index.code import decode_mask, encode_mask
from runtime.index.diff import Difference, K, agreement, difference
from runtime.index.search import Index
from runtime.index.stores import Row
from runtime.package.parity import LIMITS, median_distance
from runtime.progress import progress

FILE = "canary.npz"
MOST = 32
"""Largest number of images in the sample."""
MOST_BYTES = 64 << 20
"""Largest total size of their files; a file that does not fit is left out."""
LEAST_MASK_IOU = 0.9
"""Least mean IoU of the new and the stored masks."""


class Sample(NamedTuple):
    """The contents of `FILE`; row i belongs to image i."""

    names: list[str]
    images: list[bytes]
    """Whole files, so that decoding and resizing are tested too."""
    embeddings: np.ndarray
    """float32 (n, D), as indexed."""
    codes: list[bytes]
    """Mask codes (`runtime.index.code`)."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Result of embedding the sample again."""

    difference: Difference
    """Index compared with package; recall is measured in the whole index."""
    embedding_error: float | None
    """Worst image: distance between its two embeddings / median distance between different images;
    None if the dimensions differ or there is no image to compare."""
    sample: int
    """Number of images in the sample; `difference` is over those that could be explained again."""
    unreadable: int = 0
    """Number of sample images that can no longer be decoded."""
    unusable: int = 0
    """Number of sample images whose new outputs are not usable (`UnusableOutput`)."""

    @property
    def holds(self) -> bool:
        """Whether the index still gives the same answers."""
        return not self.objections()

    def objections(self) -> list[str]:
        """What changed, one sentence each."""
        found, said = self.difference, []
        if found.old_id != found.new_id:
            said.append(f"the index holds {found.old_id}, and this package gives {found.new_id}")
        if self.unreadable:
            said.append(f"{self.unreadable} of {self.sample} stored images can no longer be read")
        if self.unusable:
            said.append(f"{self.unusable} of {self.sample} stored images give values that are not usable")
        if not found.n:
            return said
        said += found.objections()
        limit = self._limit()
        if limit is not None and self.embedding_error is not None and self.embedding_error > limit:
            said.append(
                f"the id is the same but the embeddings differ: error {self.embedding_error:.2e} is above "
                f"{limit:.0e}; images are decoded, resized or computed differently"
            )
        if found.mask_iou < LEAST_MASK_IOU:
            said.append(f"the masks have an IoU of {found.mask_iou:.3f} < {LEAST_MASK_IOU} with those stored")
        return said

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values, with the verdict."""
        fields = dataclasses.asdict(self.difference)
        verdict = {"holds": self.holds, "objections": self.objections()}
        counts = {name: getattr(self, name) for name in ("sample", "unreadable", "unusable")}
        measured = {"embedding_error": self.embedding_error, "limit": self._limit()}
        return {**fields, **counts, **measured, **verdict}

    def _limit(self) -> float | None:
        """Largest allowed `embedding_error` under one id: twice the limit of the parity gate."""
        same = self.difference.old_id == self.difference.new_id
        precision = self.difference.new_id.rpartition("-")[2]
        return 2 * LIMITS[precision].embedding if same and precision in LIMITS else None


def write_sample(folder: Path, rows: Sequence[Row], *, new: Set[str]) -> tuple[int, int]:
    """Write `FILE`: up to `MOST` images, spread over the rows, that fit into `MOST_BYTES`.

    Images of the earlier sample that are still in the rows are kept.  New images are taken only from the
    rows that were indexed now, if their files can be read; other files may have changed since.

    Args:
        new: names of the rows that were indexed now; without an earlier sample, all rows count as new.

    Returns:
        Number of images, and total size of their files in bytes.
    """
    held = _held(folder, rows)
    fresh = [i for i, row in enumerate(rows) if i not in held and (not held or row.name in new)]
    images: dict[int, bytes] = {}
    for i in [
        *_spread([*held, *fresh], len(rows)),
        *held,
    ]:  # then the held images again, where missing files left room
        image = held[i] if i in held else _file(rows[i])
        size = sum(map(len, images.values())) + len(image)
        if i not in images and image and len(images) < MOST and size <= MOST_BYTES:
            images[i] = image
    chosen = [(rows[i], image) for i, image in sorted(images.items())]
    arrays: dict[str, np.ndarray] = {
        "names": np.array([row.name for row, _ in chosen], np.str_),
        "embeddings": np.array([row.embedding for row, _ in chosen], np.float32),
    }
    for i, (row, image) in enumerate(chosen):
        arrays[f"picture{i}"] = np.frombuffer(image, np.uint8)
        arrays[f"code{i}"] = np.frombuffer(row.mask_code, np.uint8)
    with atomic_file(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return len(chosen), sum(map(len, images.values()))


def _held(folder: Path, rows: Sequence[Row]) -> dict[int, bytes]:
    """Row number → file in the earlier sample, for rows whose embedding is unchanged."""
    if not (folder / FILE).is_file():
        return {}
    try:
        sample = _read(folder / FILE)
    except InputError as error:
        print(f"warning: {error.came}: a new sample is made", file=sys.stderr)
        return {}
    known = {name: i for i, name in enumerate(sample.names)}
    at = {i: known[row.name] for i, row in enumerate(rows) if row.name in known}
    return {
        i: sample.images[j] for i, j in at.items() if np.array_equal(sample.embeddings[j], rows[i].embedding)
    }


def _spread(available: list[int], n: int) -> list[int]:
    """Up to `MOST` of the available rows of n, spread evenly: for each even step, the nearest row left."""
    left = np.array(sorted(available), int)
    taken = []
    for step in np.linspace(0, n - 1, min(MOST, len(left))):
        nearest = int(np.abs(left - step).argmin())
        taken.append(int(left[nearest]))
        left = np.delete(left, nearest)
    return taken


def _file(row: Row) -> bytes:
    """Contents of the row's file; empty if it cannot be read or is larger than `MOST_BYTES`."""
    path = Path(row.image)
    try:
        return path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return b""


def read_sample(folder: Path) -> Sample:
    """Read `FILE`, without unpickling.

    Raises:
        InputError: it is missing or broken, or holds fewer than two images.
    """
    sample = _read(folder / FILE)
    if len(sample.names) < 2:
        raise _unusable(f"{folder / FILE} holds {len(sample.names)} images")
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
    """Embed the sample of an index again with this explainer.

    Args:
        quiet: no progress bar.

    Raises:
        InputError: the index has no readable sample, or one whose embeddings are all alike.
    """
    sample = read_sample(index.folder)
    try:
        unit = median_distance(sample.embeddings)
    except ParityError as error:  # a ParityError would be taken for a verdict
        raise _unusable(error.came) from error
    found, unreadable, unusable = _again(explainer, sample, quiet=quiet)
    old = sample.embeddings[list(found)]
    new = np.array([one.embedding for one in found.values()], np.float32)
    masks = [(decode_mask(sample.codes[i]), _coded(one.graph_mask)) for i, one in found.items()]
    same_grid = all(a.shape == b.shape for a, b in masks)
    k = min(K, index.record.rows - 1)
    measured = difference(
        (index.record.embedding_id, explainer.embedding_id),
        old,
        new,
        k,
        partial(_recalls, index, k, [sample.names[i] for i in found]),
        [agreement(a, b) for a, b in masks] if same_grid else [],
    )
    comparable = measured.least_cosine is not None
    return Canary(
        difference=measured,
        embedding_error=float(np.linalg.norm(new - old, axis=1).max()) / unit if comparable else None,
        sample=len(sample.names),
        unreadable=unreadable,
        unusable=unusable,
    )


def _again(explainer: Explainer, sample: Sample, *, quiet: bool) -> tuple[dict[int, Explanation], int, int]:
    """Number in the sample → new explanation; and how many cannot be decoded, and give unusable outputs."""
    found: dict[int, Explanation] = {}
    unreadable = unusable = 0
    with progress(len(sample.names), quiet=quiet) as bar:
        for i, image in enumerate(sample.images):
            try:
                found[i] = explainer(image)
            except InputError:
                unreadable += 1
            except UnusableOutput:
                unusable += 1
            bar.update()
    return found, unreadable, unusable


def _coded(mask: np.ndarray) -> np.ndarray:
    """The mask after the mask code, through which the stored masks went."""
    return decode_mask(encode_mask(mask))


def _recalls(index: Index, k: int, names: list[str], old: np.ndarray, new: np.ndarray) -> list[float]:
    """Share of the k rows nearest to each old embedding, without its own, that are near the new one too."""
    shares = []
    for name, before, after in zip(names, old, new, strict=True):
        near = [[hit.row.name for hit in index.nearest(one, k + 1)] for one in (before, after)]
        truth, found = (set([other for other in one if other != name][:k]) for one in near)
        shares.append(len(truth & found) / k)
    return shares


def _unusable(came: str) -> InputError:
    return InputError(
        came,
        expected="an index with a sample of at least two images, not all alike",
        cure="index the images again while their files exist: nemu index PACKAGE PHOTOS --out INDEX",
    )
