"""Assess a package's masks on given images, by mixtures of them whose correct masks are known.

A region of each image is put over the next image, which changes the embedding by a known cause.  The more
the embedding is that of the image in the region, the more of the mask must lie in the region; and a mask
toward one of the two images must lie where that image is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import InputError, ParityError
from runtime.explanation import what_is_degenerate
from runtime.media.overlay import grid, overlay
from runtime.package.parity import median_distance, ranks
from runtime.package.records import Spread, TargetMeasures

FEWEST, MOST = 8, 64
"""Least and greatest number of images."""
SIDE = (0.35, 0.75)
"""Range of the regions' sides, as shares of the image's sides."""
LEAST_FOLLOWED = 0.1
"""Masks follow their targets if `TargetMeasures.difference` is above this."""
ROWS = 6
"""Number of mixtures that `draw` shows."""
PLAIN, INSIDE, AROUND, ABSENT = (
    "by itself",
    "toward the image inside",
    "toward the one around it",
    "toward one that is not there",
)
"""Kinds of masks of a mixture, in words."""

Run = Callable[[np.ndarray], "tuple[np.ndarray, np.ndarray]"]
"""uint8 (N, h, w, 3) → embedding float32 (N, D), mask float32 (N, h, w)."""
Ask = Callable[[np.ndarray, np.ndarray], "tuple[np.ndarray, np.ndarray]"]
"""uint8 (N, h, w, 3) and targets float32 (N, D) → embedding float32 (N, D), mask float32 (N, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Measures over n mixtures."""

    n: int
    region: Spread
    """Area of the regions: the share that a mask which ignores them has in them."""
    moved: Spread
    """How far the region moves the embedding of the image around it, in units of the median distance between
    the images' embeddings."""
    plain: Spread
    """Share of the mask without a target that lies in the region."""
    agreement: float
    """Rank correlation over the mixtures between that share and the nearness of the embedding to that of the
    image in the region.  It is a partial correlation given the region's area, on which both depend."""
    low: float
    high: float
    """95 % interval of `agreement`, from `low` (Fisher's transformation)."""
    targets: TargetMeasures | None
    """None if the masker takes none."""

    @property
    def follows_embedding(self) -> bool:
        """Whether masks lie where the embedding comes from, more than by chance."""
        return self.low > 0

    @property
    def follows_target(self) -> bool:
        """Whether masks lie where their target is, by more than LEAST_FOLLOWED; True without targets."""
        return self.targets is None or low_end(self.targets.difference, self.n) > LEAST_FOLLOWED

    @property
    def believed(self) -> bool:
        """Whether masks follow the embedding and the target."""
        return self.follows_embedding and self.follows_target

    def verdict(self) -> str:
        """The result in one line."""
        said = (
            f"masks {'are' if self.follows_embedding else 'are NOT'} where the embedding comes from (rank "
            f"correlation {self.agreement:.2f}, {self.low:.2f} to {self.high:.2f})"
        )
        if self.targets is None:
            return said
        shown, around = self.targets.shown.mean, self.targets.around.mean
        return (
            f"{said}; they {'follow' if self.follows_target else 'do NOT follow'} a target ({shown:.0%} of "
            f"them lies in the region that shows it, {around:.0%} when the other image is the target)"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the verdict."""
        return {**dataclasses.asdict(self), "believed": self.believed, "verdict": self.verdict()}


@dataclass(frozen=True)
class Mixed:
    """The mixtures that were measured, and their masks."""

    images: np.ndarray
    """uint8 (N, h, w, 3)"""
    region: np.ndarray
    """bool (N, h, w)"""
    masks: dict[str, np.ndarray]
    """Masks float32 (N, h, w), by what was asked for, such as PLAIN."""
    embedding: np.ndarray
    """float32 (N, D): embeddings of the images in the regions."""


def assess(run: Run, ask: Ask | None, images: np.ndarray, *, seed: int = 0) -> tuple[Assessment, Mixed]:
    """Mix the images and measure the masks.

    Args:
        run, ask: the package's graphs; `ask` is None if its masker takes no target.
        images: uint8 (N, h, w, 3), different images on the graph's grid.
        seed: seed of the regions.

    Raises:
        InputError: fewer than FEWEST images.
    """
    n = len(images)
    if n < FEWEST:
        raise InputError(
            f"{n} images that can be read", expected=f"at least {FEWEST}", cure="name a folder with more"
        )
    own, _ = run(images)
    region = regions(n, images.shape[1:3], np.random.default_rng(seed))
    mixed = mix(images, np.roll(images, -1, axis=0), region)
    embedding, plain = run(mixed)
    around, third = np.roll(own, -1, axis=0), np.roll(own, -2, axis=0)
    to_shown, to_around = (np.linalg.norm(embedding - other, axis=1) for other in (own, around))
    shares, nearness = _shares(plain, region), to_around / np.maximum(to_shown + to_around, 1e-12)
    agreement = partial_rank_correlation(shares, nearness, region.mean(axis=(1, 2)))
    low, high = fisher(agreement, n - 1)
    masks = {PLAIN: plain}
    if ask is not None:
        targets = {INSIDE: own, AROUND: around, ABSENT: third}
        masks |= {name: ask(mixed, target)[1] for name, target in targets.items()}
    found = Assessment(
        n=n,
        region=spread(region.mean(axis=(1, 2))),
        moved=spread(to_around / _median_distance(own)),
        plain=spread(shares),
        agreement=agreement,
        low=low,
        high=high,
        targets=None if ask is None else _targets(masks, region),
    )
    return found, Mixed(mixed, region, masks, own)


def _targets(masks: dict[str, np.ndarray], region: np.ndarray) -> TargetMeasures:
    inside, absent = masks[INSIDE], masks[ABSENT]
    shown, beside = _shares(inside, region), _shares(masks[AROUND], region)
    return TargetMeasures(
        shown=spread(shown),
        around=spread(beside),
        difference=spread(shown - beside),
        present=spread(inside.mean(axis=(1, 2), dtype=np.float64)),
        absent=spread(absent.mean(axis=(1, 2), dtype=np.float64)),
        nothing=float(np.mean([what_is_degenerate(mask) == "empty" for mask in absent])),
    )


def table(found: Assessment) -> str:
    """The measures, one a line."""
    rows = {
        "mixtures": f"{found.n}; their regions have {found.region} of the area",
        "embedding moved": f"{found.moved} of the median distance between images",
        f"mask {PLAIN}": f"{found.plain} of it in the region",
    }
    if (t := found.targets) is not None:
        rows |= {
            INSIDE: f"{t.shown} of it in the region, mean {t.present}",
            AROUND: f"{t.around} of it in the region",
            ABSENT: f"mean {t.absent}; nearly nothing in {t.nothing:.0%} of the mixtures",
        }
    return "\n".join(f"{name:30}{said}" for name, said in rows.items())


def draw(mixed: Mixed) -> np.ndarray:
    """Draw the first mixtures, one a row, with the region and each mask: uint8 (H, W, 3)."""
    rows = []
    for i in range(min(ROWS, len(mixed.images))):
        masks = [mixed.region[i].astype(np.float32), *(mask[i] for mask in mixed.masks.values())]
        rows.append([mixed.images[i], *(overlay(mixed.images[i], mask) for mask in masks)])
    return grid(rows)


def spread(values: np.ndarray) -> Spread:
    """Mean and standard deviation of a measure (N,)."""
    return Spread(mean=float(values.mean()), std=float(values.std(ddof=1)))


def low_end(of: Spread, n: int) -> float:
    """Lower end of the mean's 95 % interval, by Student's t."""
    quantile = 1.96 + 2.85 / (n - 1)  # within 0.02 of it from n = 6 on
    return of.mean - quantile * of.std / math.sqrt(n)


def fisher(correlation: float, n: int) -> tuple[float, float]:
    """95 % interval of a rank correlation over n pairs, at least four."""
    middle, width = math.atanh(np.clip(correlation, -0.999999, 0.999999)), 1.96 * 1.03 / math.sqrt(n - 3)
    return math.tanh(middle - width), math.tanh(middle + width)


def _shares(masks: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Share of each mask in its region: float64 (N,)."""
    return np.array([share_in(mask, one) for mask, one in zip(masks, region, strict=True)])


def partial_rank_correlation(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """Spearman's partial correlation of a and b (N,) given `given`; 0 if that explains either entirely."""
    known = ranks(given) - ranks(given).mean()
    left = []
    for values in (a, b):
        one = ranks(values) - ranks(values).mean()
        one -= known * (one @ known) / max(known @ known, 1e-12)
        if one.std() < 1e-6 * len(one):
            return 0.0
        left.append(one)
    return float(np.corrcoef(*left)[0, 1])


def _median_distance(embedding: np.ndarray) -> float:
    try:
        return median_distance(embedding)
    except ParityError as error:
        raise InputError(
            f"{len(embedding)} images that the encoder does not tell apart",
            expected="different images",
            cure="name a folder of images that differ",
        ) from error


def regions(n: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw n random regions, bool (n, h, w): boxes and ellipses with about a quarter of the area.

    Args:
        size: (h, w) in pixels.
    """
    y, x = ((np.arange(side) + 0.5) / side for side in size)
    found = np.zeros((n, *size), bool)
    for one in found:
        sides = rng.uniform(*SIDE, 2)
        top, left = rng.uniform(0, 1 - sides)
        down = np.abs((y[:, None] - top) / sides[0] - 0.5)
        across = np.abs((x[None] - left) / sides[1] - 0.5)
        one[:] = (down < 0.5) & (across < 0.5) if rng.random() < 0.5 else down**2 + across**2 < 0.25
    return found


def mix(inside: np.ndarray, around: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Show `inside` in the region and `around` elsewhere: uint8 (…, h, w, 3), region bool (…, h, w)."""
    return np.where(region[..., None], inside, around)


def share_in(mask: np.ndarray, region: np.ndarray) -> float:
    """Share of a mask's sum in the region, 0 to 1; the region's share of the area if the mask is all 0."""
    whole = float(mask.sum(dtype=np.float64))
    return float(mask[region].sum(dtype=np.float64)) / whole if whole > 0 else float(region.mean())
