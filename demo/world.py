"""The demo world: handwritten digits on photographs, with the digit's true mask.

A scene is one real handwritten digit (scikit-learn) at a random place, size and colour over a random
crop of a real photograph (scikit-image, scikit-learn).  Scene i of a split is a function of (seed, i)
alone.  Digits and whole photographs are split, so that a test scene shares neither with training.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 96
"""Height and width of a scene, pixels."""

PHOTOGRAPHS = {
    "train": (
        "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "gravel",
        "hubble_deep_field", "immunohistochemistry", "moon", "china",
    ),
    "test": ("rocket", "retina", "grass", "clock", "flower"),
}  # fmt: skip
TEST_DIGITS = 0.2
"""Share of the handwritten digits that only test scenes show."""


@dataclass(frozen=True)
class Scene:
    """One image and its truth."""

    image: np.ndarray
    """uint8 (SIZE, SIZE, 3), RGB."""
    mask: np.ndarray
    """bool (SIZE, SIZE): the pixels of the digit's strokes."""
    digit: int
    """0..9"""
    photograph: int
    """Which of its split's photographs is behind it."""


def scene(index: int, *, split: str, seed: int = 0, clutter: float = 1.0) -> Scene:
    """Scene number `index` of a split.

    Args:
        index: any non-negative integer; equal arguments give equal scenes.
        split: `train` or `test`.
        seed: another seed is another world of the same photographs and digits.
        clutter: contrast and brightness of the photograph, 0 (black) to 1 (as it is).
    """
    rng = np.random.default_rng([seed, list(PHOTOGRAPHS).index(split), index])
    images, labels = digits(split)
    grounds = photographs(split)
    which = rng.integers(len(images))
    photograph = int(rng.integers(len(grounds)))
    canvas = crop(grounds[photograph], rng).astype(np.float32) * clutter

    side = int(rng.integers(36, 61))  # the digit's box, pixels
    strokes = np.asarray(
        Image.fromarray(images[which]).resize((side, side), Image.Resampling.BICUBIC), np.float32
    )
    alpha = np.clip((strokes / 255 - 0.25) / 0.3, 0, 1)[..., None]  # (side, side, 1), a firm stroke
    top, left = rng.integers(0, SIZE - side + 1, 2)
    window = canvas[top : top + side, left : left + side]
    window[:] = alpha * _colour(window.mean(axis=(0, 1)), rng) + (1 - alpha) * window

    mask = np.zeros((SIZE, SIZE), bool)
    mask[top : top + side, left : left + side] = alpha[..., 0] > 0.5
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, mask, digit=int(labels[which]), photograph=photograph)


def crop(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of the photograph (H, W, 3) as uint8 (SIZE, SIZE, 3); mirrored half of the time."""
    height, width = photograph.shape[:2]
    side = int(rng.integers(SIZE, min(height, width) + 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    image = Image.fromarray(photograph).resize(
        (SIZE, SIZE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(image)[:, :: -1 if rng.random() < 0.5 else 1]


def _colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour at least 100 grey levels (Euclidean) from the mean background."""
    while True:
        colour = rng.integers(0, 256, 3).astype(np.float32)
        if np.linalg.norm(colour - background) > 100:
            return colour


@functools.cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of one split: uint8 (n, 8, 8) in 0..255, and their labels (n,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    cut = int(len(order) * TEST_DIGITS)
    chosen = order[:cut] if split == "test" else order[cut:]
    return (data.images[chosen] * (255 / 16)).astype(np.uint8), data.target[chosen]


@functools.cache
def photographs(split: str) -> list[np.ndarray]:
    """The photographs of one split, uint8 (H, W, 3) each."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    def load(name: str) -> np.ndarray:
        if name in ("china", "flower"):
            return load_sample_image(f"{name}.jpg")
        image = getattr(skimage.data, name)()
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    return [load(name) for name in PHOTOGRAPHS[split]]
