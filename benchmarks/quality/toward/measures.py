"""Measures of a mask toward a target: its level and its mass in a region that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.estimate import estimate
from benchmarks.quality.metrics import localisation
from benchmarks.quality.natural.jobs import rounded
from benchmarks.quality.scoring import number
from benchmarks.quality.toward.subject import NULL, Asked
from runtime.assess import share_in
from train.config import TrainConfig
from train.lightning_module import LEAST_COST, MaskerTraining
from train.mixtures import worth
from train.nem import NEM
from train.objective import TARGET_PRICE

Row = dict[str, Any]

AROUND = "v"
"""The target that lies outside a mixture's region."""
LOCALISED = ("relevance_mass", "relevance_rank", "pointing_game", "roc_auc")


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
