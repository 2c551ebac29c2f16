"""Decide whether two packages may share an index: run the same images through both, and apply a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.media.occlusion import cosine
from runtime.progress import progress

LEAST_COSINE = 0.99
"""Least cosine of an image's two embeddings."""
LEAST_RECALL = 0.95
"""Least mean recall of the `K` nearest neighbours."""
K = 10


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two packages agree on the same images.

    The rule: two embedding ids may share an index if each image's two embeddings have a cosine of at least
    0.99, and a query with the new embedding finds in the old index, on average, at least 0.95 of the k
    neighbours that the old embedding finds there.  It holds for images like the measured ones.
    """

    old_id: str
    new_id: str
    n: int
    """Number of images compared."""
    k: int
    """Number of neighbours: 10, or all others if there are fewer."""
    least_cosine: float | None
    median_cosine: float | None
    """Cosine of an image's two embeddings; None if their dimensions differ."""
    recall: float | None
    """Mean share of the k nearest old embeddings that the new embedding finds too."""
    recall_spread: float | None
    """Standard deviation of the recall over images."""
    mask_iou: float
    """Mean over images of the masks' intersection over union at 0.5, on the original pixels."""
    mask_difference: float
    """Mean over images of the mean |difference| of the two masks."""

    @property
    def may_share_index(self) -> bool:
        """The rule's verdict."""
        return self.old_id == self.new_id or not self.objections()

    def objections(self) -> list[str]:
        """The parts of the rule that are not met, one sentence each."""
        if self.least_cosine is None or self.recall is None:
            return ["the embeddings have different dimensions"]
        found = []
        if self.least_cosine < LEAST_COSINE:
            found.append(
                f"an image's two embeddings have a cosine of {self.least_cosine:.4f} < {LEAST_COSINE}"
            )
        if self.recall < LEAST_RECALL:
            found.append(f"recall@{self.k} is {self.recall:.3f} < {LEAST_RECALL}")
        return found

    def lines(self) -> list[str]:
        """The figures in words."""
        lines = []
        if self.least_cosine is not None:
            lines += [
                f"{'cosine':9}least {self.least_cosine:.4f}, median {self.median_cosine:.4f}",
                f"{'recall':9}{self.recall:.3f} ± {self.recall_spread:.3f} of the {self.k} nearest",
            ]
        if self.n:
            lines.append(f"{'masks':9}IoU {self.mask_iou:.3f}, mean difference {self.mask_difference:.3f}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, with the verdict."""
        verdict = {"may_share_index": self.may_share_index, "objections": self.objections()}
        return {**dataclasses.asdict(self), **verdict}


def compare_packages(
    old: Explainer, new: Explainer, images: list[Path], *, quiet: bool = False
) -> Difference:
    """Explain every image with both packages.

    Args:
        quiet: no progress bar.

    Raises:
        InputError: an image cannot be read, or there are fewer than two.
    """
    if len(images) < 2:
        raise InputError(
            f"{len(images)} image", expected="at least 2, better hundreds", cure="give more images"
        )
    before, after, masks = [], [], []
    with progress(len(images), quiet=quiet) as bar:
        for image in images:
            a, b = old(image), new(image)
            before.append(a.embedding)
            after.append(b.embedding)
            masks.append(agreement(a.mask, b.mask))
            bar.update()
    k = min(K, len(images) - 1)
    ids = (old.embedding_id, new.embedding_id)
    return difference(ids, np.stack(before), np.stack(after), k, partial(recall_at, k), masks)


def difference(
    ids: tuple[str, str],
    old: np.ndarray,
    new: np.ndarray,
    k: int,
    recalls: Callable[[np.ndarray, np.ndarray], Sequence[float]],
    masks: Sequence[tuple[float, float]],
) -> Difference:
    """Summarise what was measured on each image.

    Args:
        ids: embedding ids of `old` and `new`.
        old, new: float32 (N, D), two embeddings of the same images.
        recalls: gives each image's recall of k neighbours; called if the embeddings have one dimension.
        masks: `agreement` of each image; empty if the masks cannot be compared.
    """
    alike = len(new) > 0 and old.shape == new.shape
    cosines = [cosine(a, b) for a, b in zip(old, new, strict=True)] if alike else []
    shares = recalls(old, new) if alike else []
    mask_iou, apart = (float(np.mean(values)) for values in zip(*masks or [(0, 1)], strict=True))
    return Difference(
        old_id=ids[0],
        new_id=ids[1],
        n=len(new),
        k=k,
        least_cosine=min(cosines) if alike else None,
        median_cosine=float(np.median(cosines)) if alike else None,
        recall=float(np.mean(shares)) if alike else None,
        recall_spread=float(np.std(shares)) if alike else None,
        mask_iou=mask_iou,
        mask_difference=apart,
    )


def recall_at(k: int, old: np.ndarray, new: np.ndarray) -> list[float]:
    """Share of the k old embeddings nearest to old i, without i itself, that are also nearest to new i.

    Args:
        old, new: float32 (N, D), the same images in the same order; k < N.
    """
    index, queries = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (old, new))
    shares = []
    for i, pair in enumerate(zip(index, queries, strict=True)):
        cosines = [index @ query for query in pair]
        for row in cosines:
            row[i] = -np.inf
        truth, found = (set(np.argsort(-row, kind="stable")[:k]) for row in cosines)
        shares.append(len(truth & found) / k)
    return shares


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """IoU at 0.5, and mean |difference|, of two masks (h, w)."""
    return iou(a > 0.5, b > 0.5), float(np.abs(a - b).mean())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
