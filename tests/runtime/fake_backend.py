"""A backend made from a Python function, which needs no library and no GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.backends.base import check_images
from runtime.errors import BackendError


class FakeBackend:
    """Returns `function(images)`: uint8 (N, H, W, 3) → float32 (N, D), float32 (N, H, W)."""

    name = "fake"
    why = "a Python function that was passed in"
    precision = "fp32"
    degraded = ""

    def __init__(
        self, function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], *, max_batch: int = 4
    ) -> None:
        self.function = function
        self.max_batch = max_batch
        self.closed = False

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.run`."""
        if self.closed:
            raise BackendError("this backend is closed", expected="an open one", cure="make a new one")
        height, width = images.shape[1:3]
        return self.function(check_images(images, height=height, width=width, max_batch=self.max_batch))

    def close(self) -> None:
        """See `Backend.close`."""
        self.closed = True
