"""What a level of the mask means: regions of growing share are shown, and what they keep is measured.

The mean over images gives the curve that `runtime.level` reads.  A hidden pixel shows the encoder's mean
colour, or the blurred image: these two put nothing into the image that was not there.  Noise and other
photographs would, and what a region keeps against them is less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from export.run import Session, run_session
from runtime.decode import pillow
from runtime.level import level_for
from runtime.manifest import OUTPUTS
from runtime.occlusion import kept, occlude
from runtime.records import LevelCheck, LevelRecord

IMAGES, FEWEST = 64, 24
"""How many images are measured at most, and at least."""
SHARES = (0.0, 0.03, 0.07, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Regions that are shown; the whole image keeps 1 and need not be."""
ASKED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WHOLE = 0.999
"""What is kept is 1 above it, but for rounding."""
FILLS = ("the encoder's mean colour", "the image, blurred")

Embed = Callable[[np.ndarray], np.ndarray]
"""uint8 (h, w, 3) → embedding (D,)."""


def fit(
    embed: Embed,
    images: np.ndarray,
    embedding: np.ndarray,
    mask: np.ndarray,
    *,
    mean: Sequence[float],
    source: str,
    relative: bool = False,
) -> LevelRecord:
    """The curve, and how far it holds.

    Args:
        images: uint8 (N, h, w, 3), at least two.
        embedding, mask: (N, D), (N, h, w), of them, or targets and the masks toward them.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, for people.
        relative: what a region keeps is a share of the most that any share keeps on average.
    """
    centre = embedding.mean(axis=0, dtype=np.float64)
    places = np.random.default_rng(0).integers(mask.shape[1:], size=(len(mask), 2))
    rows = [
        _measure(embed, image, m, whole, centre, fills=(mean, blurred(image) / np.float32(255)), place=place)
        for image, whole, m, place in zip(images, embedding, mask, places, strict=True)
    ]
    measured = np.array(rows)  # (N, 3, shares)
    if relative:
        measured[:, :2] /= max(measured[:, 0].mean(axis=0).max(), 1e-6)
    share, mean_kept = curve(measured[:, 0])
    return LevelRecord(
        images=source,
        n=len(images),
        fills=FILLS,
        share=share,
        kept=mean_kept,
        checks=tuple(_check(asked, measured) for asked in ASKED),
    )


def _measure(
    embed: Embed,
    image: np.ndarray,
    mask: np.ndarray,
    whole: np.ndarray,
    centre: np.ndarray,
    *,
    fills: tuple[Sequence[float] | np.ndarray, ...],
    place: np.ndarray,
) -> list[list[float]]:
    """Of one image, at SHARES and 1: what the region keeps, what it keeps when moved, its area."""

    def keeps(region: np.ndarray) -> float:
        shown = (embed(occlude(image, region.astype(np.float32), fill)) for fill in fills)
        return float(np.mean([kept(whole, one, centre) for one in shown]))

    regions = [mask >= level_for(mask, share) for share in SHARES]
    moved = [np.roll(region, tuple(place), (0, 1)) for region in regions]
    columns = map(keeps, regions), map(keeps, moved), (float(region.mean()) for region in regions)
    everything = keeps(np.ones_like(mask, bool))
    return [[*column, last] for column, last in zip(columns, (everything, everything, 1.0), strict=True)]


def curve(measured: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What each image keeps at SHARES and 1 (N, shares) → shares and means, both strictly ascending.

    It ends where the mean is largest: with the whole image, or, toward a target, with a part of it.
    """
    points: list[tuple[float, float]] = []
    for share, value in zip((*SHARES, 1.0), measured.mean(axis=0), strict=True):
        if share == 1 and value > WHOLE:
            value, points = 1.0, [point for point in points if point[1] < 1]
        if not points or value > points[-1][1]:
            points.append((share, float(value)))
    return tuple(share for share, _ in points), tuple(value for _, value in points)


def blurred(image: np.ndarray, *, sigma: float = 5) -> np.ndarray:
    """uint8 (h, w, 3) through a Gaussian of `sigma` pixels at 224, scaled with the size."""
    from PIL import ImageFilter

    radius = sigma * min(image.shape[:2]) / 224
    return np.asarray(pillow().fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _check(asked: float, measured: np.ndarray) -> LevelCheck:
    """Each image asked by the curve of the half that it is not in."""
    rows = []
    for i, columns in enumerate(measured):
        share, mean_kept = curve(measured[1 - i % 2 :: 2, 0])
        at = np.interp(asked, mean_kept, share)
        rows.append([np.interp(at, (*SHARES, 1.0), column) for column in columns])
    own, moved, area = np.array(rows).T
    return LevelCheck(
        asked=asked,
        kept=float(own.mean()),
        low=float(np.quantile(own, 0.1)),
        high=float(np.quantile(own, 0.9)),
        moved=float(moved.mean()),
        area=float(area.mean()),
    )


def measure_level(
    graphs: tuple[Path, Path], images: np.ndarray, *, mean: Sequence[float], source: str
) -> LevelRecord:
    """`fit` by two float32 graphs, through onnxruntime on the CPU.

    Args:
        graphs: the whole one, and the one without the mask.
    """
    whole, alone = (Session(onnx.load(str(graph))) for graph in graphs)
    embedding, mask = run_session(whole, images)
    return fit(
        lambda image: alone(OUTPUTS[:1], image[None])[0][0],
        images,
        embedding,
        mask,
        mean=mean,
        source=source,
    )
