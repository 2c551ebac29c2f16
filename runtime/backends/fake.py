"""A backend made from a Python function, for tests and demonstrations without a library or a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.backends.base import check_images
from runtime.errors import BackendError

Outputs = tuple[np.ndarray, np.ndarray]


def colour_and_brightness(images: np.ndarray) -> Outputs:
    """The default function: mean colour in 0..1 (N, 3), and brightness in 0..1 (N, H, W)."""
    scaled = images.astype(np.float32) / 255
    return scaled.mean((1, 2)), scaled.mean(3)


class FakeBackend:
    """Returns `function(images)`: uint8 (N, H, W, 3) → float32 (N, D), float32 (N, H, W)."""

    name = "fake"
    why = "a Python function that was passed in"
    precision = "fp32"
    degraded = ""

    def __init__(
        self, function: Callable[[np.ndarray], Outputs] = colour_and_brightness, *, max_batch: int = 4
    ) -> None:
        self.function = function
        self.max_batch = max_batch
        self.batches: list[int] = []
        """The number of images of each run."""
        self.closed = False

    def run(self, images: np.ndarray) -> Outputs:
        """See `Backend.run`."""
        if self.closed:
            raise BackendError("this backend is closed", expected="an open one", cure="make a new one")
        height, width = images.shape[1:3]
        self.batches.append(len(images))
        return self.function(check_images(images, height=height, width=width, max_batch=self.max_batch))

    def close(self) -> None:
        """See `Backend.close`."""
        self.closed = True
