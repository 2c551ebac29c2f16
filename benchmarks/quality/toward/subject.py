"""What maskers with targets are asked, where the answer is known: composites and mixtures of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.natural.subject import SWAPS, TEST, TRAIN, Source, embeddings, encoder_of, subject
from benchmarks.quality.scoring import CHUNK, Subject
from export.package.source import fitted
from runtime.assess import mix, regions
from runtime.errors import InputError
from runtime.media.sources import find_images
from train.encoder.folding import folded
from train.encoder.frozen import FrozenEncoder
from train.nem import NEM

NULL = "null"
"""Zeros, the image itself: also the mask that ignores a target, the control beside every row."""
PRICED = 64
"""Training pictures that the price of a pixel toward a target is measured on, as training does."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """N images, and targets for each of them."""

    x: Tensor
    """Normalised (N, 3, H, W)."""
    regions: np.ndarray
    """bool (N, H, W): the object; of a mixture, where the picture inside is."""
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
    """uint8 (N, H, W, 3): training pictures, from all over."""
    files = find_images(Path(source.data / TRAIN))
    return fitted(files[:: max(1, len(files) // PRICED)][:PRICED], encoder_of(source, name).input)
