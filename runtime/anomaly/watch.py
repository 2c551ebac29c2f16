"""Anomalies: compare images with a bank of normal ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from runtime.anomaly.bank import Bank
from runtime.backends.onnxruntime import CellsBackend
from runtime.errors import InputError
from runtime.media.decode import pillow
from runtime.media.geometry import ImageLike, Placement
from runtime.media.overlay import STYLES, overlay
from runtime.opened_package import Prepared, Preparer
from runtime.package.folder import Package
from runtime.progress import progress

FALSE_ALARMS = 0.01
"""Default share of normal images that may be called anomalous."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Anomaly:
    """How far one image is from normal, and where."""

    score: float
    """Largest distance of a cell from the nearest normal cell."""
    threshold: float
    """The score above which an image is called anomalous; one for all images of a `Watch`."""
    p_value: float
    """Share of images that score at least as high, among the P normal images and this one: from 1 / (P + 1)
    to 1."""
    nearest: str
    """Name of the normal image with the most similar embedding."""
    similarity: float
    """Cosine of the two embeddings."""
    distances: np.ndarray
    """float32 (h, w): distance of each cell."""
    embedding: np.ndarray
    """float32 (D,): embedding from the same pass."""
    placement: Placement
    """Where the graph's grid lies on the image."""
    image: np.ndarray
    """uint8 (H0, W0, 3) RGB, the original image."""
    embedding_id: str
    timing: Mapping[str, float]
    """Milliseconds: `preprocess`, `run` (the graph) and `search` (the bank)."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold

    @cached_property
    def map(self) -> np.ndarray:
        """float32 (H0, W0) in [0, 1] on the original pixels: 1/2 is the threshold, 1 is twice that or more.

        The scale depends on the threshold only, not on the image; 0 outside what the encoder saw.
        """
        levels = np.clip(self.distances / (2 * max(self.threshold, 1e-12)), 0, 1).astype(np.float32)
        image, (height, width) = pillow(), self.placement.grid
        grown = image.fromarray(levels).resize((width, height), image.Resampling.BILINEAR)
        return self.placement.restore(np.asarray(grown))

    def overlay(self, *, style: str = STYLES[0]) -> np.ndarray:
        """Draw the map over the image: uint8 (H0, W0, 3); the line of `spotlight` is at the threshold.

        Raises:
            InputError: a style that is not in `runtime.media.overlay.STYLES`.
        """
        return overlay(self.image, self.map, valid=self.placement.valid, style=style)

    def facts(self) -> dict[str, Any]:
        """All fields without the arrays, as plain values for JSON."""
        return {
            "anomalous": self.is_anomalous,
            "score": round(self.score, 6),
            "threshold": round(self.threshold, 6),
            "p_value": round(self.p_value, 6),
            "nearest": self.nearest,
            "similarity": round(self.similarity, 6),
            "embedding_id": self.embedding_id,
            "image_size": list(self.placement.size),
            "valid": list(self.placement.valid),
            "timing": {name: round(value, 3) for name, value in self.timing.items()},
        }


class Watch:
    """Compares images with a bank.  Made by `Explainer.against`.

        watch = explainer.against("line1.bank")
        found = watch("part.jpg")
        found.is_anomalous, found.score, found.nearest

    It computes on the CPU, in float32, whatever backend the explainer has.
    """

    def __init__(
        self, package: Package, bank: Bank, *, channel_order: str = "rgb", false_alarms: float = FALSE_ALARMS
    ) -> None:
        self._eye = _Eye(package, channel_order=channel_order)
        if bank.embedding_id != self._eye.embedding_id:
            raise InputError(
                f"a bank of {bank.embedding_id}",
                expected=f"one of {self._eye.embedding_id}, which this package computes",
                cure="make the bank again with this package: nemu bank",
            )
        self.bank = bank
        """The bank of normal images."""
        self.threshold = bank.threshold(false_alarms)
        """The score above which an image is called anomalous."""

    def __call__(self, image: ImageLike) -> Anomaly:
        """Judge one image: path, bytes, PIL image or uint8 array, as for `Explainer`.

        Raises:
            InputError: an image that cannot be used.
            BackendError: the run failed.
        """
        prepared, embedding, cells, run = self._eye(image)
        started = time.perf_counter()
        distances = self.bank.distances(cells)
        score = float(distances.max())
        nearest, similarity = self.bank.nearest(embedding)
        search = 1e3 * (time.perf_counter() - started)
        return Anomaly(
            score=score,
            threshold=self.threshold,
            p_value=self.bank.p_value(score),
            nearest=nearest,
            similarity=similarity,
            distances=distances,
            embedding=embedding,
            placement=prepared.placement,
            image=prepared.original,
            embedding_id=self.bank.embedding_id,
            timing={"preprocess": prepared.milliseconds, "run": run, "search": search},
        )


class _Eye:
    """Runs a package's graph of local features on images."""

    def __init__(self, package: Package, *, channel_order: str = "rgb") -> None:
        self.embedding_id = f"{package.manifest.embedding_id}-{CellsBackend.precision}"
        self._prepare = Preparer(package.manifest.input, channel_order=channel_order)
        self._backend = CellsBackend(package)

    def __call__(self, image: ImageLike) -> tuple[Prepared, np.ndarray, np.ndarray, float]:
        """The prepared image, embedding (D,), cells (C, h, w), milliseconds of the run; raises as `Watch`."""
        prepared = self._prepare(image)
        started = time.perf_counter()
        embedding, cells = self._backend.run(prepared.fitted)
        return prepared, embedding, cells, 1e3 * (time.perf_counter() - started)


def fit_bank(
    package: Package,
    images: Iterable[tuple[str, ImageLike]],
    *,
    total: int | None = None,
    quiet: bool = True,
) -> tuple[Bank, list[dict[str, str]]]:
    """Make a bank of normal images.  All their cells are in memory until it is made.

    Args:
        images: name of each image, and what `runtime.media.geometry.load_image` takes.
        total: number of images, for the progress bar.
        quiet: no progress bar.

    Returns:
        The bank; and the images that could not be read, each with `image` (its name) and `error`.

    Raises:
        PackageError: a package without local features.
        InputError: too few images that can be read.
    """
    eye = _Eye(package)
    names, embeddings, cells, skipped = list[str](), [], [], []
    with progress(total, quiet=quiet) as bar:
        for name, image in images:
            bar.update()
            try:
                _, embedding, features, _ = eye(image)
            except InputError as error:
                skipped.append({"image": name, "error": f"{error.came}; {error.cure}"})
                continue
            names.append(name)
            embeddings.append(embedding)
            cells.append(features)
    stacked = np.stack(cells) if cells else np.empty((0, 0, 0, 0), np.float32)
    bank = Bank.fit(np.array(embeddings), stacked, tuple(names), embedding_id=eye.embedding_id)
    return bank, skipped
