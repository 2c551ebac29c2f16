"""What only the mask keeps: a picture whose unimportant pixels are replaced, on the graph's grid.

The fill is the mean colour of the encoder's training data, which is zero after normalisation: the colour
that says least to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def occlude(image: np.ndarray, mask: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """Keep the picture where the mask is 1, show the mean colour where it is 0.

    Args:
        image: uint8 (h, w, 3), RGB.
        mask: float32 (h, w) in [0, 1].
        mean: the encoder's mean colour in 0..1, as in the manifest.

    Returns:
        uint8 (h, w, 3).
    """
    fill = 255 * np.asarray(mean, np.float32)
    kept = np.clip(mask, 0, 1)[..., None]
    return (kept * image + (1 - kept) * fill + 0.5).astype(np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two embeddings (D,), in [-1, 1]; 0 if either is all zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
