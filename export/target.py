"""What masks toward a target are worth, on mixtures of two images by a region: it is known what to show.

The level of such a mask is fitted as that of plain masks is (`export.level`).  But a target is rarely all in
an image: what a region keeps is a share of the most that any region of the masks keeps on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from export.level import fit
from export.metrics import spread
from export.run import Session, run_session
from runtime.manifest import OUTPUTS, TargetRecord
from runtime.mixtures import mix, regions, share_in

MOST = 32
"""Mixtures, at most."""


def measure_target(
    graphs: tuple[Path, Path], images: np.ndarray, *, mean: Sequence[float], source: str
) -> TargetRecord:
    """Mix each image over the next one and ask for it, for the next, and for a third.

    Args:
        graphs: the one that takes targets, and the one without the mask.
        images: uint8 (N, h, w, 3), at least three, none that training saw.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, for people.
    """
    asked, alone = (Session(onnx.load(str(graph))) for graph in graphs)
    images = images[:MOST]
    embedding = np.concatenate([alone(OUTPUTS[:1], image[None])[0] for image in images])
    around, third = np.roll(embedding, -1, axis=0), np.roll(embedding, -2, axis=0)
    region = regions(len(images), images.shape[1:3], np.random.default_rng(0))
    mixed = mix(images, np.roll(images, -1, axis=0), region)
    shown, beside, absent, plain = (
        run_session(asked, mixed, target)[1] for target in (embedding, around, third, 0 * embedding)
    )
    level = fit(
        lambda image: alone(OUTPUTS[:1], image[None])[0][0],
        mixed,
        embedding,
        shown,
        mean=mean,
        source=source,
        relative=True,
    )
    shares = (
        spread(np.array([share_in(m, r) for m, r in zip(masks, region, strict=True)]))
        for masks in (shown, beside, plain)
    )
    areas = (spread(masks.mean(axis=(1, 2), dtype=np.float64)) for masks in (absent, shown))
    names = ("shown", "around", "plain", "absent", "present")
    return TargetRecord(
        images=source,
        n=len(images),
        region=float(region.mean()),
        level=level,
        **dict(zip(names, (*shares, *areas), strict=True)),
    )
