"""What a level of the mask means: show regions of growing size, measure what they keep, and draw it.

The mean over images gives the curve that `runtime.level` reads.  A hidden pixel shows the encoder's mean
colour, or the blurred image: these two add nothing to the image.  Noise or another photograph would, and a
region keeps less against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from runtime.level import level_for
from runtime.media.decode import pillow
from runtime.media.occlusion import kept, occlude
from runtime.package.records import LevelCheck, LevelRecord

IMAGES, FEWEST = 64, 24
"""How many images are measured at most, and at least."""
SHARES = (0.0, 0.03, 0.07, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the image that are shown; the whole image keeps 1 and is not measured."""
ASKED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WHOLE = 0.999
"""A mean above it counts as 1; the rest is rounding."""
FILLS = ("mean_colour", "blur")
"""Codes of `runtime.package.reasons.fill`."""
LEVEL_PLOT = "level.svg"
"""Name in the package of the drawing that the model card shows."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 336, 14, 254
_LEGEND = {"kept": "mean of the images", "range": "10 to 90 % of them"}
_LEGEND |= {"moved": "mean, regions moved", "asked": "kept = asked"}
_STYLE = """text { font: 12px sans-serif }
polyline, path { fill: none; stroke-width: 2 }
.grid { stroke: #8884; stroke-width: 1 }
.kept { stroke: #1f5fa8 }
.range { fill: #1f5fa833 }
.moved { stroke: #b3541e; stroke-dasharray: 7 3 }
.asked { stroke: #777; stroke-dasharray: 2 3 }"""


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
    """Fit the curve, and check it on images that it was not fitted on.

    Args:
        images: uint8 (N, h, w, 3), at least two.
        embedding, mask: (N, D), (N, h, w), of the images; or targets and the masks toward them.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, a code of `runtime.package.reasons.images_used`.
        relative: count what a region keeps as a share of the most that any region keeps on average.
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
    """For one image, at SHARES and 1: what the region keeps, what it keeps when moved, its area."""

    def keeps(region: np.ndarray) -> float:
        shown = (embed(occlude(image, region.astype(np.float32), fill)) for fill in fills)
        return float(np.mean([kept(whole, one, centre) for one in shown]))

    regions = [mask >= level_for(mask, share) for share in SHARES]
    moved = [np.roll(region, tuple(place), (0, 1)) for region in regions]
    columns = map(keeps, regions), map(keeps, moved), (float(region.mean()) for region in regions)
    everything = keeps(np.ones_like(mask, bool))
    return [[*column, last] for column, last in zip(columns, (everything, everything, 1.0), strict=True)]


def curve(measured: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The curve of means: what each image keeps at SHARES and 1 (N, shares) → shares and means.

    Both ascend strictly.  The curve ends where the mean is largest: at the whole image, or, toward a
    target, at a part of it.
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
    """Ask each image with the curve of the half that it is not in."""
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


def level_plot(level: LevelRecord) -> str:
    """SVG, 530 x 300, of `level.checks`: the mean kept, its range, and the mean that moved regions keep."""
    asked = [check.asked for check in level.checks]
    least = min(value for check in level.checks for value in (check.low, check.moved))
    floor = min(0, math.floor(5 * least))  # in fifths

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - asked[0]) / (1 - asked[0])

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (5 * value - floor) / (5 - floor)

    def points(field: str) -> list[str]:
        return [f"{x(check.asked):.1f},{y(getattr(check, field)):.1f}" for check in level.checks]

    drawn = []
    for value in (fifth / 5 for fifth in range(floor, 6)):
        drawn.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_RIGHT}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    drawn += [f'<text x="{x(a):.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{a:g}</text>' for a in asked]
    drawn.append(f'<polygon class="range" points="{" ".join(points("low") + points("high")[::-1])}"/>')
    for name in ("asked", "moved", "kept"):
        drawn.append(f'<polyline class="{name}" points="{" ".join(points(name))}"/>')
    for row, (name, text) in enumerate(_LEGEND.items()):
        at = _TOP + 6 + 22 * row
        shape = f"M356 {at - 6}h22v12h-22z" if name == "range" else f"M356 {at}h22"
        drawn.append(f'<path class="{name}" d="{shape}"/><text x="386" y="{at + 4}">{text}</text>')
    body = "\n".join(drawn)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="530" height="300" viewBox="0 0 530 300">
<style>{_STYLE}</style>
<rect width="530" height="300" fill="white"/>
{body}
<text x="{_LEFT}" y="291">asked: region(keep=...)</text>
<text transform="translate(16 {_BOTTOM}) rotate(-90)">kept: centred cosine</text>
</svg>
"""
