"""The interfaces of backends, and checks of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from runtime.device_explanation import DeviceArray
from runtime.errors import BackendError, InputError
from runtime.package.manifest import OUTPUTS


class OpenBackend(Protocol):
    """What all backends of a package have.  Use one from one thread at a time."""

    name: str
    """`onnxruntime`, `tensorrt`, ..."""
    why: str
    """One sentence: why this backend was chosen, and what it runs on."""
    precision: str
    """Precision of the graph: a key of `runtime.package.parity.LIMITS`, and the end of the embedding id."""
    max_batch: int
    """Largest number of images for one run."""
    degraded: str
    """What makes it slower than it could be, e.g. `no CUDA graph: ...`; empty if nothing does."""

    def close(self) -> None:
        """Free memory and handles; a second call does nothing."""
        ...


class Backend(OpenBackend, Protocol):
    """Computes embeddings and masks."""

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute embeddings and masks.

        Args:
            images: uint8 (N, H, W, 3) RGB, 1 <= N <= max_batch, of the graph's size.

        Returns:
            embedding float32 (N, D) and mask float32 (N, H, W) in [0, 1].  The caller owns both: later
            runs do not change them.

        Raises:
            InputError: images of another dtype or shape.
            BackendError: the run failed, or the backend is closed.
        """
        ...


class EmbeddingBackend(OpenBackend, Protocol):
    """Computes embeddings."""

    outputs: tuple[str, ...]
    """Outputs that it computes: `("embedding",)`, or the mask too, which it drops."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Images as for `Backend.run` → embedding float32 (N, D); raises the same errors."""
        ...


class TargetBackend(OpenBackend, Protocol):
    """Computes embeddings, and masks of what looks like a target in each image."""

    def run_toward(self, images: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute embeddings, and masks for a target of each image.

        Args:
            images: as for `Backend.run`.
            toward: float32 (N, D), finite: embeddings of the package's encoder.  A row of zeros means the
                image itself.

        Returns:
            embedding float32 (N, D), which does not depend on the targets, and mask float32 (N, H, W) in
            [0, 1]: what looks like the target in each image.  The caller owns both.

        Raises:
            InputError: images or targets of another dtype or shape, or targets that are not finite.
            BackendError: the run failed, or the backend is closed.
        """
        ...


@runtime_checkable
class PipelinedBackend(Protocol):
    """A backend with two runs at a time: the copies of one overlap the computation of the other."""

    def submit(self, images: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Start a run and return at once a function that waits for the outputs, see `Backend.run`.

        A third run waits for the first one, if its outputs have not been read yet; no result is lost.

        Raises:
            InputError, BackendError: as for `Backend.run`.
        """
        ...


@runtime_checkable
class WarmBackend(Protocol):
    """A backend that prepares separately for each batch size."""

    def warm_up(self, *, on_device: bool = False) -> None:
        """See `runtime.explainer.Explainer.warm_up`."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend that reads images on its GPU and leaves the outputs there."""

    def run_device(self, array: Any, stream: Any = None) -> tuple[DeviceArray, DeviceArray]:
        """Compute embedding and mask, see `runtime.explainer.Explainer.run_device`."""
        ...


def check_images(images: np.ndarray, *, height: int, width: int, max_batch: int) -> np.ndarray:
    """Check images for a graph of this size, and return them C-contiguous.

    Raises:
        InputError: not uint8 (N, height, width, 3) with 1 <= N <= max_batch.
    """
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
    if not fits or images.shape[1:] != (height, width, 3) or not 1 <= len(images) <= max_batch:
        came = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(
            f"images: {came}",
            expected=f"uint8 (N, {height}, {width}, 3), N from 1 to {max_batch}",
            cure="use the Explainer, which resizes images and splits batches",
        )
    return np.ascontiguousarray(images)


def check_targets(toward: np.ndarray, *, n: int, dimension: int) -> np.ndarray:
    """Check targets for n images and a graph of this dimension, and return them C-contiguous.

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
            cure="give embeddings from this package; a row of zeros means the image itself",
        )
    return np.ascontiguousarray(toward)


def check_form(file: str, outputs: tuple[str, ...], takes_target: bool, *, mask: bool, toward: bool) -> None:
    """Check that a graph or engine has the output and the input of a call.

    Args:
        file: its name, for the error.
        outputs, takes_target: what it has.
        mask, toward: whether the call wants a mask, and gives targets.

    Raises:
        BackendError: it gives no mask, it takes no targets, or it takes targets and got none.
    """
    if mask and outputs != OUTPUTS:
        raise BackendError(
            f"an explanation was requested from {file}, which gives no mask",
            expected="a graph or engine with embedding and mask",
            cure="open the package with Explainer, which chooses one; or use Embedder",
        )
    if toward != takes_target:
        raise BackendError(
            f"a target was given to {file}, which takes none"
            if toward
            else f"no target was given to {file}, which takes one for each image",
            expected="run_toward on what takes targets, other calls on the others",
            cure="open the package with Explainer, which chooses the right one for each",
        )
