"""What the masks of a package are worth, measured with its written graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from export.int8.sensitivity import Step
from export.package.level import measure_level
from export.package.metrics import measure
from export.package.source import Images
from export.package.toward import measure_target
from runtime.backends.onnxruntime import EMBEDDING_MODELS
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS
from runtime.package.records import LevelRecord, MetricsRecord, TargetRecord


class Measured(NamedTuple):
    """The figures of the model card."""

    metrics: MetricsRecord
    level: LevelRecord | None
    """None if too few images are known that training did not see."""
    target: TargetRecord | None
    """None as `level`, or if the masker takes no targets."""


def measure_masks(folder: Path, images: Images, mean: Sequence[float], step: Step) -> Measured:
    """Measure the masks by the float32 graphs of a package that is being made.

    Args:
        mean: the encoder's mean colour in 0..1.
    """
    whole, embedding_only, asked = (
        folder / name for name in (GRAPHS["fp32"], EMBEDDING_MODELS["fp32"], TOWARD_GRAPHS["fp32"])
    )
    judged, unseen = images.judged, images.unseen
    with step(f"metrics on {len(judged.images)} images"):
        metrics = measure(whole, judged.images, mean=mean, source=judged.source)
    if not len(unseen.images):
        return Measured(metrics, None, None)
    with step(f"what a level of the mask keeps, on {len(unseen.images)} images"):
        level = measure_level((whole, embedding_only), unseen.images, mean=mean, source=unseen.source)
    if not asked.exists():
        return Measured(metrics, level, None)
    with step("masks toward targets, on mixtures of them"):
        target = measure_target((asked, embedding_only), unseen.images, mean=mean, source=unseen.source)
    return Measured(metrics, level, target)
