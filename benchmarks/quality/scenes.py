"""Planted scenes as what explainers are scored on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from benchmarks.quality.planted.encoders import embed
from benchmarks.quality.planted.world import SIZE, photograph, scene
from benchmarks.quality.scoring import Subject
from train.encoder.frozen import FrozenEncoder

FILL_PHOTOGRAPHS, CENTRE_SCENES = 64, 256
FIRST_SCENE = 5000
"""Test scenes below it chose the objective's defaults and scored the encoders; none of them is used here."""


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
