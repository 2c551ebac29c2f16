"""All metrics of one explainer on one encoder, one flat row; and how long an explanation takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.estimate import estimate
from benchmarks.common.interleave import wall_clock
from benchmarks.quality.metrics import localisation
from benchmarks.quality.metrics.faithfulness import cosine_kept, held_out_fill, insertion_deletion
from benchmarks.quality.metrics.maps import complexity, sparseness
from benchmarks.quality.metrics.robustness import average_sensitivity, mprt, mprt_floor
from train.encoder.frozen import FrozenEncoder
from train.verdict import GREY

Explain = Callable[[FrozenEncoder, Tensor], Tensor]
"""An encoder and normalised images (N, 3, H, W) → maps (N, H, W) on the CPU."""
Row = dict[str, Any]
Values = Sequence[float] | np.ndarray
"""One figure of every image that has it."""

ORDER_ONLY = ("relevance_mass", "complexity", "sparseness")
"""Null for a ranking: only the order of its map means something."""
TIMED_SEED = 1000
"""Baselines are timed with seeds of their own, so that no run of RELAX is remembered."""
CHUNK = 20
"""Images that an explainer is given at once."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images each family of metrics is taken on; 0 leaves it null."""

    images: int
    faithfulness: int
    sensitivity: int
    draws: int
    mprt: int
    copies: int
    """Randomised encoders that MPRT is averaged over."""

    def at_most(self, **limits: int) -> Counts:
        """The counts with an upper limit for each that is named."""
        return replace(self, **{name: min(getattr(self, name), limit) for name, limit in limits.items()})


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One encoder and the test scenes that it is explained on."""

    encoder: FrozenEncoder
    x: Tensor
    """Normalised (N, 3, H, W)."""
    regions: np.ndarray
    """bool (N, H, W): what the embedding depends on."""
    centre: Tensor
    """Mean embedding of training scenes, (D,)."""
    photographs: Tensor
    """Normalised crops of training photographs, for the fill that no objective was trained on."""

    def embed(self, x: Tensor) -> Tensor:
        return self.encoder(x)[0]

    def fill(self, kind: str, n: int) -> Tensor:
        """ρ for the first n scenes, the same for every method."""
        generator = torch.Generator().manual_seed(0)
        return held_out_fill(kind, self.x[:n], photographs=self.photographs, generator=generator)


def score(
    subject: Subject,
    explain: Explain,
    *,
    counts: Counts,
    is_mask: bool,
    randomised: Sequence[FrozenEncoder],
    seed: int,
) -> Row:
    """Every metric, or None where its count is 0.

    Args:
        is_mask: the map is a mask in [0, 1] whose level means something.
        randomised: copies of the encoder with nothing learned left in them; the first ones are used.
        seed: of the metrics' own randomness.
    """
    maps = maps_of(explain, subject.encoder, subject.x[: counts.images])
    values = measured(subject, maps, is_mask=is_mask, faithfulness=counts.faithfulness, seed=seed)
    return {
        **figures(subject, values),
        **robustness(subject, explain, maps, counts=counts, randomised=randomised, seed=seed),
    }


def maps_of(explain: Explain, encoder: FrozenEncoder, x: Tensor) -> Tensor:
    """The maps of all images, a few at a time."""
    return torch.cat([explain(encoder, part) for part in x.split(CHUNK)])


def measured(
    subject: Subject, maps: Tensor, *, is_mask: bool, faithfulness: int, seed: int
) -> dict[str, Values]:
    """Every figure that a map has by itself, image by image; nothing where it is not taken.

    Args:
        maps: (N, H, W) of the subject's first N images, on the CPU.
        faithfulness: of how many of them what needs many passes is taken.
    """
    regions = subject.regions[: len(maps)]
    return {
        **_localisation(maps.double().numpy(), regions, is_mask=is_mask),
        **_faithfulness(subject, maps[:faithfulness], seed=seed),
        **(_kept(subject, maps) if is_mask else dict.fromkeys(KEPT, ())),
    }


def figures(subject: Subject, values: Mapping[str, Values]) -> Row:
    """Means and standard errors of what `measured` gave."""
    n = len(values["relevance_rank"])
    row: Row = {"n_images": n, "n_faithfulness": len(values["insertion_auc"])}
    for name, of in values.items():
        row |= _figure(name, of)
    return {**row, "region_area": float(subject.regions[:n].mean()) or None}


def robustness(
    subject: Subject,
    explain: Explain,
    maps: Tensor,
    *,
    counts: Counts,
    randomised: Sequence[FrozenEncoder],
    seed: int,
) -> Row:
    """Change of an explainer's maps under small noise on the image, and on randomised encoders."""
    of = partial(maps_of, explain)
    sensitivity = np.empty(0)
    if counts.sensitivity:
        sensitivity = average_sensitivity(
            partial(of, subject.encoder),
            subject.x[: counts.sensitivity],
            generator=torch.Generator().manual_seed(seed),
            draws=counts.draws,
        )
    n = counts.mprt
    copies = randomised[: counts.copies] if n else []
    rho = np.array([mprt(lambda _: maps[:n], partial(of, copy), subject.x[:n]) for copy in copies])
    return {
        **_figure("sensitivity", sensitivity),
        "n_sensitivity": len(sensitivity),
        "sensitivity_draws": counts.draws,
        # over copies, if several, which differ more than images
        **_figure("mprt_abs_rho", np.nanmean(rho, axis=1) if len(copies) > 1 else rho.flatten()),
        "mprt_floor": number(mprt_floor(maps).upper) if n else None,
        "n_mprt": n,
        "mprt_copies": len(copies),
    }


def seconds_per_image(
    explain: Callable[[Tensor], Tensor], x: Tensor, *, slow: bool, rounds: int = 5
) -> dict[str, Any]:
    """Median seconds an image, one image at a time and in one batch of all of x (N, 3, H, W).

    Args:
        slow: seconds an image: two images, one by one, without warm-up; the batch is left null.
    """

    def clock(part: Tensor) -> float:
        return wall_clock(lambda: explain(part)) / 1e3

    threads = {"threads": torch.get_num_threads()}
    if slow:
        singles = [clock(one) for one in x[-2:].split(1)]
        return {"seconds_per_image": statistics.median(singles), "seconds_per_image_batched": None, **threads}
    clock(x[:1])
    singles = [clock(one) for _ in range(rounds) for one in x.split(1)]
    clock(x)
    batches = [clock(x) / len(x) for _ in range(rounds)]
    return {
        "seconds_per_image": statistics.median(singles),
        "seconds_per_image_batched": statistics.median(batches),
        "batch": len(x),
        **threads,
    }


def _localisation(maps: np.ndarray, regions: np.ndarray, *, is_mask: bool) -> dict[str, Values]:
    of = {
        "relevance_rank": localisation.relevance_rank,
        "rank_corrected": localisation.rank_corrected,
        "relevance_mass": localisation.relevance_mass,
        "pointing_game": localisation.pointing_game,
        "roc_auc": localisation.roc_auc,
    }
    levels = {"mask_inside": localisation.mask_inside, "mask_outside": localisation.mask_outside}
    values: dict[str, Values] = dict.fromkeys(levels, ())
    for name, metric in (of | levels if is_mask else of).items():
        values[name] = [metric(m, r) for m, r in zip(maps, regions, strict=True)]
    return {
        **values,
        "complexity": [complexity(m) for m in maps],
        "sparseness": [sparseness(m) for m in maps],
    }


def _faithfulness(subject: Subject, maps: Tensor, *, seed: int) -> dict[str, Values]:
    fills = subject.fill("photograph", len(maps)) if len(maps) else maps
    areas = [
        insertion_deletion(
            subject.embed,
            subject.x[i],
            maps[i],
            fills[i],
            centre=subject.centre,
            generator=torch.Generator().manual_seed(1000 * seed + i),
        )
        for i in range(len(maps))
    ]
    inserted, deleted = zip(*areas, strict=True) if areas else ((), ())
    return {
        "insertion_auc": inserted,
        "deletion_auc": deleted,
        "insertion_minus_deletion": [i - d for i, d in areas],
    }


KEPT = ("cosine_kept", "cosine_kept_moved", "cosine_kept_mean_fill", "mask_area", "mask_mean", "mask_grey")


def _kept(subject: Subject, masks: Tensor) -> dict[str, Values]:
    """What the mask at 0.5 keeps, in front of a photograph and in front of the image's mean colour.

    `cosine_kept_moved` is what the same mask keeps half an image lower and further right (what leaves on
    one side enters on the other), in front of the photograph; `mask_grey` the share of pixels in GREY.
    """
    height, width = masks.shape[1:]
    moved = masks.roll((height // 2, width // 2), (1, 2))
    kept, area = _cosine_kept(subject, masks, "photograph")
    return {
        "cosine_kept": kept,
        "cosine_kept_moved": _cosine_kept(subject, moved, "photograph")[0],
        "cosine_kept_mean_fill": _cosine_kept(subject, masks, "mean")[0],
        "mask_area": area,
        "mask_mean": masks.mean((1, 2)).numpy(),
        "mask_grey": ((masks > GREY[0]) & (masks < GREY[1])).float().mean((1, 2)).numpy(),
    }


def _cosine_kept(subject: Subject, masks: Tensor, fill: str) -> tuple[np.ndarray, np.ndarray]:
    n = len(masks)
    parts = zip(*(t.split(CHUNK) for t in (subject.x[:n], masks, subject.fill(fill, n))), strict=True)
    rows = [cosine_kept(subject.embed, *part, centre=subject.centre) for part in parts]
    cosines, areas = (torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True))
    return cosines, areas


def _figure(name: str, values: Values) -> Row:
    """Mean and standard error over images; null where there is none.  Undefined ones are counted."""
    figure = estimate(list(values))
    row = {name: number(figure.mean), f"{name}_error": number(figure.error)}
    return {**row, f"{name}_undefined": figure.undefined} if figure.undefined else row


def number(value: float | np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)
