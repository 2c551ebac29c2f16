"""Occlusion: replace the pixels that a mask does not keep, and compare the embeddings before and after.

The fill is the mean colour of the encoder's training data, which is zero after normalisation: the encoder
gets the least information from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def occlude(image: np.ndarray, mask: np.ndarray, mean: Sequence[float] | np.ndarray) -> np.ndarray:
    """Keep the image where the mask is 1, and show the mean colour where it is 0.

    Args:
        image: uint8 (h, w, 3), RGB.
        mask: float32 (h, w) in [0, 1].
        mean: the encoder's mean colour in 0..1, as in the manifest; or (h, w, 3), any other fill.

    Returns:
        uint8 (h, w, 3).
    """
    fill = 255 * np.asarray(mean, np.float32)
    kept = np.clip(mask, 0, 1)[..., None]
    return (kept * image + (1 - kept) * fill + 0.5).astype(np.uint8)


def kept(embedding: np.ndarray, shown: np.ndarray, centre: np.ndarray) -> float:
    """Centred cosine of an image's embedding (D,) and that of its visible part (D,), in [-1, 1].

    Embeddings of one encoder share a direction, so that their plain cosine is near 1 whatever is hidden.
    After the mean embedding `centre` (D,) of many images is subtracted, the cosine of two different images
    is 0 on average.
    """
    centre = centre.astype(np.float64)
    return cosine(embedding - centre, shown - centre)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two embeddings (D,), in [-1, 1]; 0 if either is all zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
