"""Pairs on a planted encoder: two scenes that share one of the two digits that the embedding depends on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.explainers import FIRST_SCENE, encoder_of, train_masker
from benchmarks.quality.planted.encoders import embed
from benchmarks.quality.planted.world import Scene, scene
from benchmarks.quality.settings import TARGETS
from benchmarks.quality.toward.subject import NULL, Asked, logits, row
from runtime.errors import InputError
from train.checkpoint import load_nem
from train.run_folder import MASKER

DIGITS = ("red", "blue")
PAIRS, FARTHEST = 100, 2000
"""For each digit; and the scenes among which the second of a pair is looked for."""


def pairs(n: int, shared: str) -> list[tuple[Scene, Scene]]:
    """Test scenes with the same digit of one colour, by its label, and another of the other colour.

    Writers, places, photographs, patches and shapes differ.

    Raises:
        InputError: not a digit.
    """
    if shared not in DIGITS:
        raise InputError(f"shared {shared}", expected="red or blue", cure="shared='red'")
    (other,) = set(DIGITS) - {shared}
    found, after = [], FIRST_SCENE + n
    for i in range(n):
        first = scene(FIRST_SCENE + i, split="test")
        for j in range(after + i, after + i + FARTHEST):
            second = scene(j, split="test")
            same = first.labels[shared] == second.labels[shared]
            if same and first.labels[other] != second.labels[other]:
                found.append((first, second))
                break
    return found


def digit_share(mask: np.ndarray, one: Scene, shared: str) -> float:
    """Share of the mask's mass on digits that is on one of them; nan if there is none."""
    on = {name: float(mask[one.regions[name]].sum(dtype=np.float64)) for name in DIGITS}
    whole = sum(on.values())
    return on[shared] / whole if whole > 0 else float("nan")


def mass(mask: np.ndarray, one: Scene, shared: str) -> float:
    """Share of the whole mask that is on a digit; nan for an empty mask."""
    whole = float(mask.sum(dtype=np.float64))
    return float(mask[one.regions[shared]].sum(dtype=np.float64)) / whole if whole > 0 else float("nan")


def planted(work: Path, *, seed: int, steps: int) -> list[dict[str, Any]]:
    """A row for each digit that pairs may share; encoders lie in `work`/encoders, maskers are trained there.

    `self_mass` is the mass on the red digit of the mask of an encoder that depends on nothing else.
    """
    encoder = encoder_of("digits", work)
    nem = load_nem(train_masker(work, "digits", TARGETS, seed=seed, steps=steps) / MASKER)
    found = []
    for shared in DIGITS:
        both = pairs(PAIRS, shared)
        first, second = (np.stack([pair[side].image for pair in both]) for side in (0, 1))
        q = embed(encoder, second).clone()
        asked = Asked(
            x=encoder.normalize(torch.from_numpy(first)),
            regions=np.stack([one.regions[shared] for one, _ in both]),
            targets={NULL: torch.zeros_like(q), "pair": q},
            centre=torch.zeros(q.shape[1]),
        )
        masks = {name: of.sigmoid().numpy() for name, of in logits(nem, asked).items()}
        values = {
            "on_shared": [
                digit_share(m, one, shared) for m, (one, _) in zip(masks["pair"], both, strict=True)
            ],
            "control": [digit_share(m, one, shared) for m, (one, _) in zip(masks[NULL], both, strict=True)],
            "mass": [mass(m, one, shared) for m, (one, _) in zip(masks["pair"], both, strict=True)],
            "mask_mean": [float(m.mean()) for m in masks["pair"]],
        }
        if shared == "red" and not (work / "encoders/red.safetensors").is_file():
            print(f"warning: no encoder `red` in {work}: its self-mask is not beside it", file=sys.stderr)
        elif shared == "red":
            alone = load_nem(train_masker(work, "red", TARGETS, seed=seed, steps=steps) / MASKER)
            x = alone.encoder.normalize(torch.from_numpy(first))
            own = Asked(x=x, regions=asked.regions, targets={NULL: torch.zeros_like(q)}, centre=asked.centre)
            (of_red,) = logits(alone, own).values()
            reds = zip(of_red.sigmoid().numpy(), both, strict=True)
            values["self_mass"] = [mass(m, one, "red") for m, (one, _) in reds]
            values["apart"] = [a - b for a, b in zip(values["mass"], values["self_mass"], strict=True)]
        found.append({"encoder": "digits", "seed": seed, "shared": shared, "steps": steps, **row(values)})
    return found
