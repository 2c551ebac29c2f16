"""Images without labels, in an order that is a function of (seed, position) alone.

Training reads one endless stream: position p belongs to pass p // n over the n files, and each pass is a new
permutation.  Crop, mirror and order depend on (seed, p) alone, so a resumed run sees the same images as an
uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from runtime.errors import InputError
from runtime.media.geometry import Geometry, load_image
from train.machine import PREFETCH

APART = 64
"""Most images that are set apart: training does not see them, the build measures on them."""
FEWEST_APART = 24
"""Fewest images that are set apart; a folder of which an eighth is less keeps all its images."""


def set_apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files for training, and those set apart: at most an eighth, spread evenly over the list."""
    count = min(APART, len(files) // 8)
    if count < FEWEST_APART:
        return list(files), []
    apart = {i * len(files) // count for i in range(count)}
    return [f for i, f in enumerate(files) if i not in apart], [files[i] for i in sorted(apart)]


class Photographs(Dataset[tuple[Tensor, list[int]]]):
    """Position in the stream → (image uint8 (H, W, 3), indices of the files skipped to get it).

    A file that cannot be decoded is replaced by the next one in the pass.

    Args:
        files: all images, in a fixed order.
        geometry: how an image becomes the encoder's input.
        seed: for order and augmentation.
        augment: `none`, or `crop`; see `train.config`.
    """

    def __init__(self, files: Sequence[Path], *, geometry: Geometry, seed: int, augment: str) -> None:
        self.files = list(files)
        self.geometry = geometry
        self.seed = seed
        self.augment = augment
        self._order = (-1, np.empty(0, np.int64))  # (pass, its permutation)

    def __getitem__(self, position: int) -> tuple[Tensor, list[int]]:
        """Raises InputError when no file at all can be decoded."""
        number, at = divmod(position, len(self.files))
        if self._order[0] != number:
            self._order = (number, np.random.default_rng([self.seed, 0, number]).permutation(len(self.files)))
        order = self._order[1]
        skipped: list[int] = []
        for step in range(len(order)):
            candidate = int(order[(at + step) % len(order)])
            try:
                image = load_image(self.files[candidate])
            except InputError:
                skipped.append(candidate)
                continue
            rng = np.random.default_rng([self.seed, 1, position])
            return torch.from_numpy(self._fit(image, rng)), skipped
        raise InputError(
            f"none of {len(self.files)} files could be decoded, {self.files[0]} the first",
            expected="a folder of images (JPEG, PNG, WebP, …)",
            cure="open one of them in an image viewer; if it opens there, report it as a bug",
        )

    def _fit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.augment == "crop":
            share = np.sqrt(rng.uniform(0.6, 1.0))
            height, width = (max(1, round(side * share)) for side in image.shape[:2])
            top = rng.integers(image.shape[0] - height + 1)
            left = rng.integers(image.shape[1] - width + 1)
            image = image[top : top + height, left : left + width]
            if rng.random() < 0.5:
                image = image[:, ::-1]
        return np.array(self.geometry.fit(np.ascontiguousarray(image))[0])


@dataclass(frozen=True)
class Steps(Sampler[list[int]]):
    """Batches of stream positions from step `start` on; rank r of a world takes its slice of each.

    Its length is the whole run's, `stop`, because Lightning counts the steps before a resume as done.
    """

    start: int
    stop: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))

    def __len__(self) -> int:
        return self.stop


def collate(samples: Sequence[tuple[Tensor, list[int]]]) -> tuple[Tensor, list[int]]:
    """A batch: images uint8 (N, H, W, 3), indices of all files skipped.

    The indices are plain numbers, so that Lightning does not move them to a GPU, where reading waits.
    """
    images, skipped = zip(*samples, strict=True)
    return torch.stack(images), [index for indices in skipped for index in indices]


def load(images: Photographs, batches: Steps, *, workers: int) -> DataLoader:
    """The batches, in order, decoded ahead by `workers` processes (0: by this process, on demand).

    With a GPU they lie in pinned memory, from which they are copied while it computes.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
