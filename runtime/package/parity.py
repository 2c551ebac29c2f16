"""Parity: how far the outputs of two runs of a graph differ, and whether the gate allows it.

The embedding's error is measured relative to the distance between different images, because a cosine of 1.0
proves nothing for an encoder whose embeddings are all alike.  A negative control, which compares the outputs
with another image's reference, must fail.

`python -m benchmarks.gate` measures what an error means to a user (three encoders, 200 images each).  Random
noise of 0.05 leaves a centred cosine of 0.990 or more, and 1 to 6 images get another nearest neighbour; 0.1
leaves 0.963, and 7 to 21 images; 0.2 leaves 0.87 to 0.93, and 14 to 26 images.  The neighbours that change
have a rival that is as near, within 0.02 of the median distance (0.03 with bfloat16), so they may change at
any precision.  So neighbours and cosine are reported, and only the error decides.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import InputError, ParityError

_SAMPLE = 200_000  # mask pixels the rank correlation looks at
_BETWEEN = (0.02, 0.98)  # a reference mask outside this range is saturated: its ranks are rounding noise
_FEWEST = 64  # pixels in this range, below which ranks mean nothing


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the gate; None for a measure that does not decide."""

    embedding: float
    """Largest `Parity.embedding_error`."""
    mask_error: float | None = None
    """Largest `Parity.mask_error`."""
    mask_iou: float | None = None
    """Smallest `Parity.mask_iou`."""


LIMITS = {
    "fp32": Limits(embedding=1e-3, mask_error=1e-4),
    "fp16": Limits(embedding=5e-2, mask_error=2e-2, mask_iou=0.98),
    "bf16": Limits(embedding=1e-1, mask_error=4e-2, mask_iou=0.95),
    "int8": Limits(embedding=1e-1, mask_error=5e-2, mask_iou=0.9),
}
"""The gate's limits, by the precision that is measured."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Measures of one comparison.  An output that is not finite gives an infinite error."""

    embedding_error: float
    """Worst image: ‖z − z_ref‖ / median distance between references of different images.  Lower is better."""
    centred_cosine: float
    """Worst image: cosine of z and z_ref around the mean of the references.  Higher is better."""
    neighbours: float
    """Share of the images whose nearest other image stays the nearest.  Higher is better."""
    mask_error: float
    """Mean |m − m_ref|.  Lower is better."""
    mask_iou: float
    """Intersection over union of m > 0.5 and m_ref > 0.5 over all pixels; 1 if both are empty.  Higher is
    better."""
    mask_rank_correlation: float | None
    """Spearman's, over the pixels where the reference is not saturated; None if they are too few."""
    n: int
    """Number of images."""
    control_embedding_error: float
    """Negative control: `embedding_error` of the outputs against another image's reference."""
    control_failed: bool
    """Whether the control's error was above the limit, as it must be."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite error becomes the text `inf`, because JSON has no infinity."""
        fields = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}

    def embedding_to_json(self) -> dict[str, Any]:
        """Plain values without the mask's measures, for a backend without masks."""
        return {k: v for k, v in self.to_json().items() if not k.startswith("mask_")}

    def failures(self, limits: Limits) -> list[str]:
        """One sentence for each measure beyond the limits; empty if the gate is passed."""
        said = []
        if not self.embedding_error <= limits.embedding:
            said.append(
                f"embedding error {self.embedding_error:.2e} is above {limits.embedding:.0e} (worst of "
                f"{self.n} images, in units of the median distance between different images)"
            )
        if limits.mask_iou is not None and not self.mask_iou >= limits.mask_iou:
            said.append(f"mask IoU at 0.5 is {self.mask_iou:.4f}, below {limits.mask_iou}")
        if limits.mask_error is not None and not self.mask_error <= limits.mask_error:
            said.append(
                f"mask error {self.mask_error:.2e} is above {limits.mask_error:.0e} (mean difference)"
            )
        if not self.control_failed:
            said.append(
                f"the negative control passed: against another image's reference the embedding error is "
                f"only {self.control_embedding_error:.2e}, so this comparison proves nothing"
            )
        return said


def measure(
    *,
    embedding: np.ndarray,
    mask: np.ndarray,
    reference_embedding: np.ndarray,
    reference_mask: np.ndarray,
    limits: Limits,
) -> Parity:
    """Compare outputs for N different images with their references.

    Args:
        embedding: float (N, D).
        mask: float (N, H, W) in [0, 1].
        reference_embedding: float (N, D), finite.
        reference_mask: float (N, H, W), finite.
        limits: only `limits.embedding` is used, for the negative control.

    Raises:
        InputError: fewer than two images.
        ParityError: shapes differ, or the references are not finite or all alike.
    """
    _check(embedding, mask, reference_embedding, reference_mask)
    unit = median_distance(reference_embedding)
    known, finite = bool(np.isfinite(embedding).all()), bool(np.isfinite(mask).all())
    others = np.roll(reference_embedding, 1, axis=0)
    control = _worst_distance(embedding, others) / unit if known else math.inf
    return Parity(
        embedding_error=_worst_distance(embedding, reference_embedding) / unit if known else math.inf,
        centred_cosine=_centred_cosine(embedding, reference_embedding) if known else -1.0,
        neighbours=_neighbours(embedding, reference_embedding) if known else 0.0,
        mask_error=float(np.mean(np.abs(mask - reference_mask), dtype=np.float64)) if finite else math.inf,
        mask_iou=_iou(mask > 0.5, reference_mask > 0.5) if finite else 0.0,
        mask_rank_correlation=_rank_correlation(mask, reference_mask) if finite else None,
        n=len(embedding),
        control_embedding_error=control,
        control_failed=control > limits.embedding,
    )


def _check(
    embedding: np.ndarray, mask: np.ndarray, reference_embedding: np.ndarray, reference_mask: np.ndarray
) -> None:
    n = len(reference_embedding)
    if n < 2:
        raise InputError(
            f"{n} reference image",
            expected="at least 2 different images: the error is measured against their distance",
            cure="give more images to the gate",
        )
    for name, array, reference, ndim in (
        ("embedding", embedding, reference_embedding, 2),
        ("mask", mask, reference_mask, 3),
    ):
        if array.shape != reference.shape or array.ndim != ndim or len(array) != n:
            raise ParityError(
                f"{name} {array.shape} against a reference {reference.shape}",
                expected=f"both of one shape with {ndim} axes, for {n} images",
                cure="compare a graph with the reference that was made from it",
            )
        if not np.isfinite(reference).all():
            raise ParityError(
                f"the reference {name} holds values that are not finite",
                expected="a reference with finite values",
                cure="look for the layer that overflows; build the package again",
            )


def median_distance(embedding: np.ndarray) -> float:
    """Median Euclidean distance over all pairs of rows; raises `ParityError` if they are all alike."""
    median = float(np.median(distances(embedding)[np.triu_indices(len(embedding), k=1)]))
    if median <= 1e-6 * np.linalg.norm(embedding, axis=1).mean():  # rounding noise, or nothing at all
        raise ParityError(
            f"the {len(embedding)} reference embeddings are all alike (median distance {median:.1e})",
            expected="images that the encoder tells apart",
            cure="give different images to the gate; if they do differ, the encoder has collapsed",
        )
    return median


def _worst_distance(embedding: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(embedding.astype(np.float64) - reference, axis=1).max())


def _centred_cosine(embedding: np.ndarray, reference: np.ndarray) -> float:
    centre = reference.mean(axis=0, dtype=np.float64)
    a, b = embedding - centre, reference - centre
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


def _neighbours(embedding: np.ndarray, reference: np.ndarray) -> float:
    return float((distances(embedding).argmin(axis=1) == distances(reference).argmin(axis=1)).mean())


def distances(embedding: np.ndarray) -> np.ndarray:
    """Euclidean distances between rows, float64 (N, N); the diagonal is infinity."""
    z = embedding.astype(np.float64)
    distances = np.stack([np.linalg.norm(z - row, axis=1) for row in z])
    np.fill_diagonal(distances, np.inf)
    return distances


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def _rank_correlation(mask: np.ndarray, reference: np.ndarray) -> float | None:
    telling = (reference > _BETWEEN[0]) & (reference < _BETWEEN[1])
    a, b = mask[telling], reference[telling]
    step = max(1, math.ceil(len(b) / _SAMPLE))
    a, b = ranks(a[::step]), ranks(b[::step])
    if len(b) < _FEWEST or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks as float64; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]
