"""What masks toward a target are worth, on mixtures of two images by a region: it is known what to show.

The level of such a mask is fitted as that of plain masks is (`export.level`).  But a target is rarely all in
an image: what a region keeps is a share of the most that any region of the masks keeps on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.level import fit
from export.run import Session, run_session
from runtime.assess import INSIDE, assess
from runtime.manifest import OUTPUTS
from runtime.records import TargetRecord

MOST = 32
"""Mixtures, at most."""


def measure_target(
    graphs: tuple[Path, Path], images: np.ndarray, *, mean: Sequence[float], source: str
) -> TargetRecord:
    """`runtime.assess` by two float32 graphs, and the level of masks toward the image that a region shows.

    Args:
        graphs: the one that takes targets, and the one without the mask.
        images: uint8 (N, h, w, 3), different ones that training did not see.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, for people.
    """
    asked, alone = (Session(onnx.load(str(graph))) for graph in graphs)

    def embed(image: np.ndarray) -> np.ndarray:
        return alone(OUTPUTS[:1], image[None])[0][0]

    def run(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return run_session(asked, pictures, np.zeros((len(pictures), dimension), np.float32))

    dimension = len(embed(images[0]))
    found, mixed = assess(run, lambda x, toward: run_session(asked, x, toward), images[:MOST])
    level = fit(
        embed, mixed.images, mixed.embedding, mixed.masks[INSIDE], mean=mean, source=source, relative=True
    )
    measured: Any = found.targets  # it was asked
    return TargetRecord(images=source, n=found.n, measured=measured, level=level)
