"""Measure masks toward a target on mixtures of two images, where the right region is known.

The level of such a mask is fitted like that of plain masks (`export.package.level`).  But a target is
rarely all in an image, so what a region keeps is a share of the most that any region of the masks keeps on
average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.graph.session import Session
from export.package.level import fit
from runtime.assess import INSIDE, assess
from runtime.package.records import TargetRecord

MOST = 32
"""At most this many mixtures are measured."""


def measure_target(
    graphs: tuple[Path, Path], images: np.ndarray, *, mean: Sequence[float], source: str
) -> TargetRecord:
    """`runtime.assess` by two float32 graphs, and the level of masks toward the image that a region shows.

    Args:
        graphs: the graph that takes targets, and the one without the mask.
        images: uint8 (N, h, w, 3), different ones that training did not see.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, a code of `runtime.package.reasons.images_used`.
    """
    asked, embedding_only = map(Session, graphs)

    def embed(image: np.ndarray) -> np.ndarray:
        return embedding_only.embed(image[None])[0]

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return asked.explain(images, np.zeros((len(images), dimension), np.float32))

    dimension = len(embed(images[0]))
    found, mixed = assess(run, asked.explain, images[:MOST])
    level = fit(
        embed, mixed.images, mixed.embedding, mixed.masks[INSIDE], mean=mean, source=source, relative=True
    )
    measured: Any = found.targets  # it was asked
    return TargetRecord(images=source, n=found.n, measured=measured, level=level)
