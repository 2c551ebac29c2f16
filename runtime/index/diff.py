"""Decide whether two packages may share an index: run the same images through both, and apply a rule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
    embeddings: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    ious, differences = [], []
    with progress(len(images), quiet=quiet) as bar:
        for image in images:
            a, b = old(image), new(image)
            embeddings[0].append(a.embedding)
            embeddings[1].append(b.embedding)
            ious.append(iou(a.mask > 0.5, b.mask > 0.5))
            differences.append(float(np.abs(a.mask - b.mask).mean()))
            bar.update()
    before, after = map(np.stack, embeddings)
    k = min(K, len(images) - 1)
    alike = before.shape == after.shape
    cosines = [cosine(x, y) for x, y in zip(before, after, strict=True)] if alike else []
    recalls = recall_at(k, before, after) if alike else None
    return Difference(
        old_id=old.embedding_id,
        new_id=new.embedding_id,
        n=len(images),
        k=k,
        least_cosine=min(cosines) if alike else None,
        median_cosine=float(np.median(cosines)) if alike else None,
        recall=None if recalls is None else float(recalls.mean()),
        recall_spread=None if recalls is None else float(recalls.std()),
        mask_iou=float(np.mean(ious)),
        mask_difference=float(np.mean(differences)),
    )


def recall_at(k: int, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Share of the k old embeddings nearest to old i, without i itself, that are also nearest to new i.

    Args:
        old, new: float32 (N, D), the same images in the same order; k < N.

    Returns:
        float64 (N,).
    """
    index, queries = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (old, new))
    shares = []
    for i, pair in enumerate(zip(index, queries, strict=True)):
        cosines = [index @ query for query in pair]
        for row in cosines:
            row[i] = -np.inf
        truth, found = (set(np.argsort(-row, kind="stable")[:k]) for row in cosines)
        shares.append(len(truth & found) / k)
    return np.array(shares)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
