"""Real encoders, and the unseen composites that `python -m benchmarks.natural_data` writes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.quality import needed
from benchmarks.quality.metrics.robustness import randomised
from benchmarks.quality.scoring import CHUNK, Subject
from export.package.source import fitted
from runtime.atomic import atomic_file
from runtime.errors import InputError
from runtime.media.sources import find_images
from train.config import EncoderConfig
from train.encoder.frozen import FrozenEncoder
from train.encoder.zoo import load_encoder

SIZE = 224
TRAIN, TEST, MASKS, SWAPS = "train", "test", "test_masks", "test_swaps"
CHANGES = {"object_swapped": "obj", "photograph_swapped": "bg", "object_removed": "none"}
"""What was changed → how its file's name ends."""
PLAIN = "p"
"""Training photographs without a pasted object begin with it."""
CENTRE_IMAGES, FILL_IMAGES = 256, 64
NEEDED_IMAGES, NEEDED_CELL = 12, 16
RANDOM = "-random"
"""An encoder's name with it: the same architecture with nothing learned in it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where encoders and data lie."""

    data: Path
    weights: tuple[tuple[str, Path], ...]
    """timm name, safetensors file."""
    device: str
    size: int = SIZE

    def config(self, name: str) -> EncoderConfig:
        """The whole image is seen: composites are square."""
        return EncoderConfig(
            encoder=f"timm/{name.removesuffix(RANDOM)}",
            weights=str(dict(self.weights)[name].resolve()),
            image_size=(self.size, self.size),
            resize="squash",
        )


def weights_of(given: Iterable[str]) -> tuple[tuple[str, Path], ...]:
    """Name and file of each `--encoder-weights NAME=FILE`.

    Raises:
        InputError: not of that form, or no such file.
    """
    pairs = [(name, Path(file)) for name, _, file in (text.partition("=") for text in given)]
    for name, file in pairs:
        if not file.is_file():
            raise InputError(
                f"--encoder-weights {name}={file}",
                expected="NAME=FILE, a timm name and a safetensors file",
                cure="e.g. mobilenetv2_100=mobilenetv2.safetensors",
            )
    return tuple(pairs)


@functools.cache
def encoder_of(source: Source, name: str) -> FrozenEncoder:
    """Loaded once, on the device."""
    return load_encoder(source.config(name)).to(source.device)


@functools.cache
def digest(data: Path) -> str:
    """sha256 over names and sizes of all images: which data a result is of."""
    files = sorted(p for folder in (TRAIN, TEST, MASKS, SWAPS) for p in (data / folder).iterdir())
    lines = (f"{p.relative_to(data).as_posix()} {p.stat().st_size}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.cache
def subject_of(source: Source, name: str, images: int) -> Subject:
    """See `subject`."""
    return subject(encoder_of(source, name), source.data, images)


def subject(encoder: FrozenEncoder, data: Path, images: int) -> Subject:
    """The first `images` composites and their objects; fill and centre are training photographs.

    Raises:
        InputError: no data there, or fewer composites.
    """
    tests = find_images(data / TEST)[:images]
    if len(tests) < images:
        raise InputError(
            f"{len(tests)} composites in {data / TEST}",
            expected=f"{images}",
            cure="make more with python -m benchmarks.natural_data, or ask for fewer with --images",
        )
    train = find_images(data / TRAIN)
    plain = [p for p in train if p.name.startswith(PLAIN)]
    if not plain:
        raise InputError(
            f"no photograph without an object in {data / TRAIN}",
            expected=f"files whose names begin with {PLAIN}",
            cure="make the data with python -m benchmarks.natural_data",
        )
    regions = fitted((data / MASKS / f"{p.stem}.png" for p in tests), encoder.input)
    return Subject(
        encoder=encoder,
        x=pixels_of(encoder, tests),
        regions=regions[..., 0] > 127,
        centre=embeddings(encoder, fitted(_spread(train, CENTRE_IMAGES), encoder.input)).mean(0),
        photographs=pixels_of(encoder, _spread(plain, FILL_IMAGES)),
    )


def evidence(source: Source, name: str, images: int) -> dict[str, Any]:
    """What moves the embedding, by intervention, and how much of a composite it needs.

    `moves` are mean distances ‖z(changed) − z‖, in units of the median distance between different composites.
    """
    encoder, seen = encoder_of(source, name), subject_of(source, name, images)
    tests = find_images(source.data / TEST)[:images]
    z = embeddings(encoder, fitted(tests, encoder.input))
    apart = nn.functional.pdist(z).median()
    moves = {}
    for change, ending in CHANGES.items():
        files = (source.data / SWAPS / f"{p.stem}__{ending}.png" for p in tests)
        moves[change] = (embeddings(encoder, fitted(files, encoder.input)) - z).norm(dim=1) / apart
    n = min(NEEDED_IMAGES, images)
    return {
        "moves": {change: float(of.mean()) for change, of in moves.items()},
        "needed_images": n,
        **needed.shares(seen, n, cell=NEEDED_CELL),
    }


def randomise(source: Source, name: str, path: Path) -> None:
    """Write the weights of `name` with nothing learned left, BatchNorm's statistics those of photographs."""
    encoder = randomised(load_encoder(source.config(name)), seed=0)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        nn.Module.train(norm)
    files = _spread(find_images(source.data / TRAIN), CENTRE_IMAGES)
    embeddings(encoder, fitted(files, encoder.input))
    timm_model: Any = encoder.model.model
    with atomic_file(path) as file:
        save_file({k: v.contiguous() for k, v in timm_model.state_dict().items()}, file)


def pixels_of(encoder: FrozenEncoder, files: Iterable[Path]) -> Tensor:
    """Normalised (N, 3, H, W), on the encoder's device."""
    return encoder.normalize(torch.from_numpy(fitted(files, encoder.input)).to(encoder.mean.device))


@torch.no_grad()
def embeddings(encoder: FrozenEncoder, images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) → (N, D), on the encoder's device."""
    parts = torch.from_numpy(images).split(CHUNK)
    return torch.cat([encoder(encoder.normalize(part.to(encoder.mean.device)))[0].float() for part in parts])


def _spread(files: list[Path], most: int) -> list[Path]:
    """At most so many, from all over the list."""
    return files[:: max(1, len(files) // most)][:most]
