"""What every backend is, and what it may be given: small enough that `fake.py` fits on a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from runtime.device_explanation import DeviceArray
from runtime.errors import InputError


class Backend(Protocol):
    """Runs one package's graph.  Used from one thread at a time."""

    name: str
    """`onnxruntime`, `tensorrt`, ..."""
    why: str
    """One sentence: why this backend was chosen, and what it runs on."""
    precision: str
    """What the graph computes in: a key of `runtime.parity.LIMITS`; it ends the embedding id."""
    max_batch: int
    """The most images one `run` takes."""
    degraded: str
    """What is slower or less than it should be, e.g. `no CUDA graph: ...`; empty if nothing is."""

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images in, both outputs out.

        Args:
            images: uint8 (N, H, W, 3) RGB, 1 <= N <= max_batch, of the graph's size.

        Returns:
            embedding float32 (N, D) and mask float32 (N, H, W) in [0, 1].  The caller owns both: the
            next run does not touch them.

        Raises:
            InputError: images of another dtype or shape.
            BackendError: the run failed, or the backend is closed.
        """
        ...

    def close(self) -> None:
        """Give back memory and handles; may be called again."""
        ...


class EmbeddingBackend(Protocol):
    """Runs what the embedding needs of one package's graph.  Used from one thread at a time."""

    name: str
    why: str
    precision: str
    max_batch: int
    degraded: str
    """These as of `Backend`."""
    outputs: tuple[str, ...]
    """What it computes: `("embedding",)`, or the mask as well, which is then dropped."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Images as `Backend.run` takes them → embedding float32 (N, D); raises as that does."""
        ...

    def close(self) -> None:
        """Give back memory and handles; may be called again."""
        ...


class TargetBackend(Protocol):
    """Runs the graph of one package that takes a target.  Used from one thread at a time."""

    name: str
    why: str
    precision: str
    max_batch: int
    degraded: str
    """These as of `Backend`."""

    def run_toward(self, images: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and a target for each in, both outputs out.

        Args:
            images: as `Backend.run` takes them.
            toward: float32 (N, D), finite: embeddings of the package's encoder.  A row of zeros means the
                image itself.

        Returns:
            embedding float32 (N, D), which the targets do not change, and mask float32 (N, H, W) in [0, 1]:
            what of each image looks like its target.  The caller owns both.

        Raises:
            InputError: images or targets of another dtype or shape, or targets that are not finite.
            BackendError: the run failed, or the backend is closed.
        """
        ...

    def close(self) -> None:
        """Give back memory and handles; may be called again."""
        ...


@runtime_checkable
class PipelinedBackend(Protocol):
    """A backend that can have two runs under way: copies of one overlap the computing of the other."""

    def submit(self, images: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Start a run and return at once; what is returned waits for the outputs, which `run` describes.

        A third run started before the first was waited for waits for it; no result is lost.

        Raises:
            InputError, BackendError: as `Backend.run`.
        """
        ...


@runtime_checkable
class WarmBackend(Protocol):
    """A backend that prepares for each batch size on its own."""

    def warm_up(self, *, on_device: bool = False) -> None:
        """See `runtime.explainer.Explainer.warm_up`."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend that takes images which are on its GPU, and leaves the outputs there."""

    def run_device(self, array: Any, stream: Any = None) -> tuple[DeviceArray, DeviceArray]:
        """Embedding and mask, see `runtime.explainer.Explainer.run_device`."""
        ...


def check_images(images: np.ndarray, *, height: int, width: int, max_batch: int) -> np.ndarray:
    """The images, C-contiguous, if a graph of this size can take them.

    Raises:
        InputError: not uint8 (N, height, width, 3) with 1 <= N <= max_batch.
    """
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not fits or images.shape[1:] != (height, width, 3) or not 1 <= len(images) <= max_batch:
        came = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(
            f"images: {came}",
            expected=f"uint8 (N, {height}, {width}, 3), N from 1 to {max_batch}",
            cure="use the Explainer, which resizes pictures and cuts batches to size",
        )
    return np.ascontiguousarray(images)


def check_targets(toward: np.ndarray, *, n: int, dimension: int) -> np.ndarray:
    """The targets, C-contiguous, if a graph of this dimension can take them with n images.

    Raises:
        InputError: not float32 (n, dimension), or not finite.
    """
    fits = isinstance(toward, np.ndarray) and toward.dtype == np.float32
    if not fits or toward.shape != (n, dimension) or not np.isfinite(toward).all():
        came = f"{toward.dtype} {toward.shape}" if isinstance(toward, np.ndarray) else type(toward).__name__
        odd = fits and toward.shape == (n, dimension)
        raise InputError(
            f"toward: {came}" + ", with values that are not finite" * odd,
            expected=f"float32 ({n}, {dimension}), finite: a target for each image",
            cure="give embeddings that this package made; a row of zeros means the image itself",
        )
    return np.ascontiguousarray(toward)
