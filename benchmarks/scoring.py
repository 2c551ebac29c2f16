"""All metrics of one explainer on one encoder: one flat row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import localisation
from benchmarks.complexity import complexity, sparseness
from benchmarks.encoders import embed
from benchmarks.estimate import estimate
from benchmarks.faithfulness import cosine_kept, held_out_fill, insertion_deletion
from benchmarks.robustness import average_sensitivity, mprt, mprt_floor
from benchmarks.world import SIZE, photograph, scene
from train.encoder import FrozenEncoder

Explain = Callable[[FrozenEncoder, Tensor], Tensor]
"""An encoder and normalised images (N, 3, H, W) → maps (N, H, W) on the CPU."""
Row = dict[str, Any]

TOP_K = round(1000 * (SIZE / 224) ** 2)
"""Quantus' default of 1000 pixels at 224, for scenes of SIZE."""
FILL_PHOTOGRAPHS, CENTRE_SCENES = 64, 256
FIRST_SCENE = 5000
"""Test scenes below it chose the objective's defaults and scored the encoders; none of them is used here."""
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


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One encoder and the test scenes that it is explained on."""

    encoder: FrozenEncoder
    x: Tensor
    """Normalised (N, 3, SIZE, SIZE)."""
    regions: np.ndarray
    """bool (N, SIZE, SIZE): what the embedding depends on."""
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


@lru_cache(maxsize=4)  # every method of an encoder is scored on the same one
def subject(encoder: FrozenEncoder, truth: tuple[str, ...], *, kind: str, scenes: int) -> Subject:
    """Test scenes of a kind, from FIRST_SCENE on; the region is the union of the factors of `truth`.

    Without a truth the region is empty, and what is measured against it null.
    """
    tests = [scene(i, split="test", kind=kind) for i in range(FIRST_SCENE, FIRST_SCENE + scenes)]
    training = np.stack([scene(i, split="train").image for i in range(CENTRE_SCENES)])
    bare = np.stack([photograph(i, split="train") for i in range(FILL_PHOTOGRAPHS)])
    return Subject(
        encoder=encoder,
        x=encoder.normalize(torch.from_numpy(np.stack([s.image for s in tests]))),
        regions=np.stack([sum((s.regions[n] for n in truth), np.zeros((SIZE, SIZE), bool)) for s in tests]),
        centre=embed(encoder, training).mean(dim=0).clone(),
        photographs=encoder.normalize(torch.from_numpy(bare)),
    )


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

    def maps_of(encoder: FrozenEncoder, x: Tensor) -> Tensor:
        return torch.cat([explain(encoder, part) for part in x.split(CHUNK)])

    maps = maps_of(subject.encoder, subject.x[: counts.images])
    return {
        "n_images": len(maps),
        **_localisation(maps.double().numpy(), subject.regions[: len(maps)], is_mask=is_mask),
        **_faithfulness(subject, maps[: counts.faithfulness], seed=seed),
        **(_kept(subject, maps) if is_mask else dict.fromkeys(KEPT)),
        **_sensitivity(subject, maps_of, counts=counts, seed=seed),
        **_mprt(subject, maps_of, maps, randomised=randomised[: counts.copies], n=counts.mprt),
    }


def _localisation(maps: np.ndarray, regions: np.ndarray, *, is_mask: bool) -> Row:
    pairs = list(zip(maps, regions, strict=True))
    of = {
        "relevance_rank": localisation.relevance_rank,
        "rank_corrected": localisation.rank_corrected,
        "relevance_mass": localisation.relevance_mass,
        "pointing_game": localisation.pointing_game,
        "top_k": lambda m, r: localisation.top_k(m, r, k=TOP_K),
        "roc_auc": localisation.roc_auc,
    }
    row: Row = {}
    for name, metric in of.items():
        row |= _figure(name, [metric(m, r) for m, r in pairs])
    for name, inside in (
        ("mask_inside", localisation.mask_inside),
        ("mask_outside", localisation.mask_outside),
    ):
        row[name] = _number(np.mean([inside(m, r) for m, r in pairs])) if is_mask else None
    row |= _figure("complexity", [complexity(m) for m in maps])
    row |= _figure("sparseness", [sparseness(m) for m in maps])
    return {**row, "region_area": float(regions.mean()) or None}


def _faithfulness(subject: Subject, maps: Tensor, *, seed: int) -> Row:
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
    difference = [i - d for i, d in areas]
    return {
        "n_faithfulness": len(maps),
        **_figure("insertion_auc", inserted),
        **_figure("deletion_auc", deleted),
        **_figure("insertion_minus_deletion", difference),
    }


KEPT = ("cosine_kept", "cosine_kept_error", "cosine_kept_mean_fill", "mask_area")


def _kept(subject: Subject, masks: Tensor) -> Row:
    """What the mask at 0.5 keeps, in front of a photograph and in front of the image's mean colour."""
    n, x = len(masks), subject.x[: len(masks)]
    kept = {}
    for fill in ("photograph", "mean"):
        parts = zip(x.split(CHUNK), masks.split(CHUNK), subject.fill(fill, n).split(CHUNK), strict=True)
        rows = [cosine_kept(subject.embed, *part, centre=subject.centre) for part in parts]
        kept[fill] = torch.cat([cosine for cosine, _ in rows]).numpy()
        area = torch.cat([area for _, area in rows])
    return {
        **_figure("cosine_kept", kept["photograph"]),
        "cosine_kept_mean_fill": float(kept["mean"].mean()),
        "mask_area": float(area.mean()),
    }


def _sensitivity(subject: Subject, maps_of: Explain, *, counts: Counts, seed: int) -> Row:
    values = np.empty(0)
    if counts.sensitivity:
        values = average_sensitivity(
            lambda x: maps_of(subject.encoder, x),
            subject.x[: counts.sensitivity],
            generator=torch.Generator().manual_seed(seed),
            draws=counts.draws,
        )
    return {**_figure("sensitivity", values), "n_sensitivity": len(values), "sensitivity_draws": counts.draws}


def _mprt(
    subject: Subject, maps_of: Explain, maps: Tensor, *, randomised: Sequence[FrozenEncoder], n: int
) -> Row:
    """Mean over images and copies; the error is over copies, if several, which differ more than images."""
    copies = len(randomised) if n else 0
    values = np.array(
        [mprt(lambda _: maps[:n], partial(maps_of, copy), subject.x[:n]) for copy in randomised[:copies]]
    )
    return {
        **_figure("mprt_abs_rho", np.nanmean(values, axis=1) if copies > 1 else values.flatten()),
        "mprt_floor": _number(mprt_floor(maps).upper) if n else None,
        "n_mprt": n,
        "mprt_copies": copies,
    }


def _figure(name: str, values: Sequence[float] | np.ndarray) -> Row:
    """Mean and standard error over images; null where there is none.  Undefined ones are counted."""
    figure = estimate(list(values))
    row = {name: _number(figure.mean), f"{name}_error": _number(figure.error)}
    return {**row, f"{name}_undefined": figure.undefined} if figure.undefined else row


def _number(value: float | np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)
