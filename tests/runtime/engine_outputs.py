"""Random images for the engines of `fake_tensorrt`, and a check of their outputs."""

from __future__ import annotations

import numpy as np


def random_images(n: int, seed: int = 0) -> np.ndarray:
    """uint8 (n, 4, 6, 3)."""
    return np.random.default_rng((n, seed)).integers(0, 256, (n, 4, 6, 3), np.uint8)


def check_outputs(
    images: np.ndarray, outputs: tuple[np.ndarray, np.ndarray], toward: np.ndarray | None = None
) -> None:
    """Compare embedding and mask with what `fake_tensorrt` computes from these images and targets."""
    embedding, mask = outputs
    expected = images[..., 0] / np.float32(255)
    if toward is not None:
        expected = expected * np.where(toward.any(1), toward.mean(1), 1)[:, None, None]
    np.testing.assert_allclose(embedding, images.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(mask, expected, rtol=1e-6 if toward is None else 1e-5)
