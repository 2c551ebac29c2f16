"""What maskers with targets are asked where the answer is known, and measures of what they answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.estimate import estimate
from benchmarks.quality.metrics import localisation
from benchmarks.quality.natural.jobs import rounded
from benchmarks.quality.natural.subject import SWAPS, TEST, TRAIN, Source, embeddings, encoder_of, subject
from benchmarks.quality.scoring import CHUNK, Subject, number
from export.package.source import fitted
from runtime.assess import mix, regions, share_in
from runtime.errors import InputError
from runtime.media.sources import find_images
from train.config import TrainConfig
from train.encoder.folding import folded
from train.encoder.frozen import FrozenEncoder
from train.lightning_module import LEAST_COST, MaskerTraining
from train.mixtures import worth
from train.nem import NEM
from train.objective import TARGET_PRICE

NULL = "null"
"""Zeros, the image itself: also the mask that ignores a target, the control beside every row."""
PRICED = 64
"""Training images that the price of a pixel toward a target is measured on, as training does."""


AROUND = "v"
"""The target that lies outside a mixture's region."""
LOCALISED = ("relevance_mass", "relevance_rank", "pointing_game", "roc_auc")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """N images, and targets for each of them."""

    x: Tensor
    """Normalised (N, 3, H, W)."""
    regions: np.ndarray
    """bool (N, H, W): the object; of a mixture, where the image inside is."""
    targets: Mapping[str, Tensor]
    """What is asked for → (N, D)."""
    centre: Tensor
    """Mean embedding of training images, (D,)."""


@functools.cache
def quick(source: Source, name: str) -> FrozenEncoder:
    """The encoder as training runs it, with its BatchNorms folded: the same, and twice as fast."""
    return folded(encoder_of(source, name)) or encoder_of(source, name)


@functools.cache
def seen_by(source: Source, name: str, images: int) -> Subject:
    """See `benchmarks.quality.natural.subject.subject`."""
    return subject(quick(source, name), source.data, images)


@functools.cache
def composites(source: Source, name: str, images: int) -> Asked:
    """Unseen objects on unseen photographs, and what differs from them in one thing or in all.

    Raises:
        InputError: see `benchmarks.quality.natural.subject.subject`; or all composites show one thing.
    """
    seen, encoder = seen_by(source, name, images), quick(source, name)
    tests = find_images(source.data / TEST)[:images]

    def embedded(ending: str) -> Tensor:
        files = (source.data / SWAPS / f"{p.stem}__{ending}.png" for p in tests)
        return embeddings(encoder, fitted(files, encoder.input))

    own, bare = embeddings(encoder, fitted(tests, encoder.input)), embedded("none")
    other = unrelated([p.stem for p in tests])
    targets = {
        NULL: torch.zeros_like(own),
        "itself": own,
        "same object": embedded("bg"),
        "bare photograph": bare,
        "other object": embedded("obj"),
        "unrelated photograph": bare[other],
        "unrelated composite": own[other],
    }
    return Asked(x=seen.x, regions=seen.regions, targets=targets, centre=seen.centre)


def unrelated(names: list[str]) -> list[int]:
    """Index of the next composite with another object and another photograph, for each composite.

    Args:
        names: NUMBER_OBJECT_PHOTOGRAPH, as `benchmarks.quality.natural.natural_data` has them.

    Raises:
        InputError: there is none.
    """
    things = [(name.split("_")[1], name.rpartition("_")[2]) for name in names]
    found = []
    for i, mine in enumerate(things):
        order = (*range(i + 1, len(things)), *range(i))
        odd = (j for j in order if all(a != b for a, b in zip(mine, things[j], strict=True)))
        if (one := next(odd, None)) is None:
            raise InputError(
                f"{len(names)} composites, none of them unrelated to {names[i]}",
                expected="another object on another photograph among them",
                cure="take more with --images",
            )
        found.append(one)
    return found


@functools.cache
def mixtures(source: Source, name: str, images: int) -> Asked:
    """Each composite inside a region, the next one around it; targets of the two, and of the one after."""
    encoder = quick(source, name)
    pictures = fitted(find_images(source.data / TEST)[:images], encoder.input)
    region = regions(len(pictures), pictures.shape[1:3], np.random.default_rng(0))
    x = mix(pictures, np.roll(pictures, -1, axis=0), region)
    own = embeddings(encoder, pictures)
    targets = {
        NULL: torch.zeros_like(own),
        "u": own,
        "v": own.roll(-1, 0),
        "neither": own.roll(-2, 0),
    }
    centre = seen_by(source, name, images).centre
    normalised = encoder.normalize(torch.from_numpy(x).to(encoder.mean.device))
    return Asked(x=normalised, regions=region, targets=targets, centre=centre)


@torch.inference_mode()
def logits(nem: NEM, asked: Asked) -> dict[str, Tensor]:
    """What is asked for → the masker's logits, float32 (N, H, W) on the CPU."""
    found: dict[str, list[Tensor]] = {name: [] for name in asked.targets}
    for rows in torch.arange(len(asked.x)).split(CHUNK):
        x = asked.x[rows]
        pyramid = nem.encoder(x)[1]
        for name, target in asked.targets.items():
            found[name].append(nem.masker(pyramid, x, target[rows]).squeeze(1).float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def priced(source: Source, name: str) -> np.ndarray:
    """uint8 (N, H, W, 3): training images, from all over."""
    files = find_images(Path(source.data / TRAIN))
    return fitted(files[:: max(1, len(files) // PRICED)][:PRICED], encoder_of(source, name).input)


def row(values: Mapping[str, Sequence[float]]) -> Row:
    """Means, standard errors and single figures; null where one is undefined."""
    found: Row = {"n": len(next(iter(values.values())))}
    for name, of in values.items():
        mean = estimate(list(of))
        found |= {name: number(mean.mean), f"{name}_error": number(mean.error)}
    return {**found, "values": {name: rounded(of) for name, of in values.items()}}


def levels(masks: Mapping[str, Tensor], regions: np.ndarray) -> list[Row]:
    """Mean mask inside and outside the object, a row for what is asked; beside it the mask that ignores it.

    Args:
        masks: what is asked → (N, H, W) in [0, 1]; NULL among them.
        regions: bool (N, H, W).
    """
    found = []
    for asked, of in masks.items():
        pairs = list(zip(of.double().numpy(), regions, strict=True))
        inside = [localisation.mask_inside(m, r) for m, r in pairs]
        outside = [localisation.mask_outside(m, r) for m, r in pairs]
        apart = [i - o for i, o in zip(inside, outside, strict=True)]
        found.append({"asked": asked, **row({"inside": inside, "outside": outside, "difference": apart})})
    control = next(one for one in found if one["asked"] == NULL)
    return [{**one, **{f"control_{k}": control[k] for k in ("inside", "outside")}} for one in found]


def shares(masks: Mapping[str, Tensor], regions: np.ndarray) -> list[Row]:
    """Share of the masks' sum that lies in the regions, a row for what is asked.

    `share` is the mean over mixtures, `pooled` that of all masks together: a mask that is nearly empty has
    a share like any other, but hardly counts in it.
    """
    found = []
    area = [float(r.mean()) for r in regions]
    for asked, of in masks.items():
        whole = of.double().numpy()
        sums = [float(m.sum()) for m in whole]
        inside = [float(m[r].sum()) for m, r in zip(whole, regions, strict=True)]
        values = {
            "share": [share_in(m, r) for m, r in zip(whole, regions, strict=True)],
            "mask_mean": [s / whole[0].size for s in sums],
            "area": area,
        }
        pooled = sum(inside) / sum(sums) if sum(sums) > 0 else float(np.mean(area))
        found.append({"asked": asked, "pooled": pooled, **row(values)})
    control = next((one for one in found if one["asked"] == NULL), None)
    if control is None:
        return found
    return [{**one, "control_share": control["share"], "control_pooled": control["pooled"]} for one in found]


def localised(maps: Tensor, regions: np.ndarray, order: Tensor | None = None) -> Row:
    """Share of the positive part that lies in the region; rank, pointing game and AUC of the whole map.

    Args:
        maps: (N, H, W), signed or not.
        order: another map with the same order, whose large values are not rounded together.
    """
    found: dict[str, list[float]] = {name: [] for name in LOCALISED}
    for i, (map, region) in enumerate(zip(maps.double().numpy(), regions, strict=True)):
        ranked = map if order is None else order[i].double().numpy()
        found["relevance_mass"].append(localisation.relevance_mass(np.maximum(map, 0), region))
        for name in LOCALISED[1:]:
            found[name].append(getattr(localisation, name)(ranked, region))
    return row(found)


def tasks(on_composites: Asked, on_mixtures: Asked, images: int) -> dict[str, tuple[Asked, str, np.ndarray]]:
    """Where an explanation of a pair must lie: name → images, what is asked, bool regions (N, H, W)."""
    here, mixed = first(on_composites, images), first(on_mixtures, images)
    return {
        "same object": (here, "same object", here.regions),
        "mixture, u": (mixed, "u", mixed.regions),
        "mixture, v": (mixed, AROUND, ~mixed.regions),
    }


def first(asked: Asked, images: int) -> Asked:
    """The first of the images."""
    targets = {name: of[:images] for name, of in asked.targets.items()}
    return replace(asked, x=asked.x[:images], regions=asked.regions[:images], targets=targets)


def price_toward(nem: NEM, config: TrainConfig, images: np.ndarray, centre: Tensor) -> float:
    """λ toward a target, as `train.lightning_module` measures it on training images uint8 (N, H, W, 3)."""
    module = MaskerTraining(nem, config, files="")
    module.centre = centre
    return TARGET_PRICE * max(worth(module, torch.from_numpy(images)), LEAST_COST)
