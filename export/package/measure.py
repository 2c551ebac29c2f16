"""What the masks of a package are worth, measured with its float32 graphs in onnxruntime on the CPU.

The metrics of the model card say how much of the embedding a mask keeps, and how much any mask would.  z is
the embedding of an image, z' that of what a mask keeps of the image (`runtime.media.occlusion`):
  fidelity         cos(z, z')
  fidelity, moved  the same with the mask moved to a random place, around the edges: the same size and
                   shape, elsewhere.  The lower it is, the more the mask's place matters.
  fidelity, empty  the same with nothing kept.  High if an encoder's embeddings are all alike.

Masks toward a target are measured on mixtures of two images, where the right region is known.  Their level
is fitted like that of plain masks (`export.package.level`).  But a target is rarely all in an image, so what
a region keeps is a share of the most that any region of the masks keeps on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.graph.session import Session
from export.int8.write import Step
from export.package.level import fit
from export.package.source import Images
from runtime.assess import INSIDE, assess, spread
from runtime.backends.onnxruntime import EMBEDDING_MODELS
from runtime.explanation import what_is_degenerate
from runtime.media.occlusion import cosine, occlude
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS
from runtime.package.records import LevelRecord, MetricsRecord, Spread, TargetRecord

MIXTURES = 32
"""At most this many mixtures are measured."""


class Measured(NamedTuple):
    """The figures of the model card."""

    metrics: MetricsRecord
    level: LevelRecord | None = None
    """None if too few images are known that training did not see."""
    target: TargetRecord | None = None
    """None as `level`, or if the masker takes no targets."""


def measure_masks(folder: Path, images: Images, mean: Sequence[float], step: Step) -> Measured:
    """Measure the masks of a package that is being made.

    Args:
        mean: the encoder's mean colour in 0..1.
    """
    whole, embedding_only = Session(folder / GRAPHS["fp32"]), Session(folder / EMBEDDING_MODELS["fp32"])
    judged, unseen = images.judged, images.unseen
    with step(f"metrics on {len(judged.images)} images"):
        metrics = measure(whole, judged.images, mean=mean, source=judged.source)
    if not len(unseen.images):
        return Measured(metrics)
    with step(f"what a level of the mask keeps, on {len(unseen.images)} images"):
        outputs = whole.explain(unseen.images)
        level = fit(embedding_only.embed, unseen.images, *outputs, mean=mean, source=unseen.source)
    asked = folder / TOWARD_GRAPHS["fp32"]
    if not asked.exists():
        return Measured(metrics, level)
    with step("masks toward targets, on mixtures of them"):
        target = measure_target(
            Session(asked), embedding_only, unseen.images, mean=mean, source=unseen.source
        )
    return Measured(metrics, level, target)


def measure(session: Session, images: np.ndarray, *, mean: Sequence[float], source: str) -> MetricsRecord:
    """Run the images through a graph, then what their masks keep of them.

    Args:
        images: uint8 (N, H, W, 3), at least two.
        source: which images these are, a code of `runtime.package.reasons.images_used`.
    """
    embedding, mask = session.explain(images)
    places = np.random.default_rng(0).integers(mask.shape[1:], size=(len(mask), 2))
    moved = [np.roll(m, tuple(place), (0, 1)) for m, place in zip(mask, places, strict=True)]
    kept = [occlude(x, m, mean) for masks in (mask, moved) for x, m in zip(images, masks, strict=True)]
    nothing = occlude(images[0], np.zeros_like(mask[0]), mean)
    again, _ = session.explain(np.stack([*kept, nothing]))
    n = len(images)
    return MetricsRecord(
        images=source,
        n=n,
        fidelity=_fidelity(embedding, again[:n]),
        fidelity_moved=_fidelity(embedding, again[n : 2 * n]),
        fidelity_empty=_fidelity(embedding, again[2 * n :].repeat(n, axis=0)),
        area=spread(mask.mean(axis=(1, 2), dtype=np.float64)),
        degenerate=sum(bool(what_is_degenerate(m)) for m in mask),
    )


def _fidelity(embedding: np.ndarray, masked: np.ndarray) -> Spread:
    return spread(np.array([cosine(a, b) for a, b in zip(embedding, masked, strict=True)]))


def measure_target(
    asked: Session, embedding_only: Session, images: np.ndarray, *, mean: Sequence[float], source: str
) -> TargetRecord:
    """`runtime.assess`, and the level of masks toward the image that a region shows.

    Args:
        asked: the graph that takes targets.
        images: uint8 (N, h, w, 3), different ones that training did not see.
        source: which images these are, a code of `runtime.package.reasons.images_used`.
    """
    embed = embedding_only.embed
    dimension = len(embed(images[0]))

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return asked.explain(images, np.zeros((len(images), dimension), np.float32))

    found, mixed = assess(run, asked.explain, images[:MIXTURES])
    level = fit(
        embed, mixed.images, mixed.embedding, mixed.masks[INSIDE], mean=mean, source=source, relative=True
    )
    measured: Any = found.targets  # it was asked
    return TargetRecord(images=source, n=found.n, measured=measured, level=level)
