"""The metrics of the model card: how much of the embedding a mask keeps, and how much any mask would.

z is the embedding of an image, z' that of what a mask keeps of the image (`runtime.media.occlusion`):
  fidelity         cos(z, z')
  fidelity, moved  the same with the mask moved to a random place, around the edges: the same size and
                   shape, elsewhere.  The lower it is, the more the mask's place matters.
  fidelity, empty  the same with nothing kept.  High if an encoder's embeddings are all alike.
The float32 graph computes all of them, in onnxruntime on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.graph.session import Session
from runtime.assess import spread
from runtime.explanation import what_is_degenerate
from runtime.media.occlusion import cosine, occlude
from runtime.package.records import MetricsRecord, Spread

IMAGES = 64
"""At most this many images of --evaluate are taken, spread evenly over the folder."""


def measure(path: Path, images: np.ndarray, *, mean: Sequence[float], source: str) -> MetricsRecord:
    """Run the images through a graph, then what their masks keep of them.

    Args:
        path: the float32 graph.
        images: uint8 (N, H, W, 3), at least two.
        mean: the encoder's mean colour in 0..1.
        source: which images these are, a code of `runtime.package.reasons.images_used`.
    """
    session = Session(path)
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
    """Cosine of each pair of rows of two (N, D)."""
    return spread(np.array([cosine(a, b) for a, b in zip(embedding, masked, strict=True)]))
