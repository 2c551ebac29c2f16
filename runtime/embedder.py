"""Embedder: a package and a backend → embeddings without masks, to index many images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.base import EmbeddingBackend, WarmBackend
from runtime.backends.choice import choose_embedding
from runtime.backends.threads import thread_count
from runtime.errors import InputError
from runtime.media.geometry import ImageLike
from runtime.opened_package import OpenedPackage, is_several
from runtime.package.folder import Package

if TYPE_CHECKING:
    from concurrent.futures import Future


class Embedder(OpenedPackage[EmbeddingBackend]):
    """Gives the embeddings that an `Explainer` gives, without the masks.

        with Embedder("demo.nemu") as embedder:
            vectors = embedder(["one.jpg", "two.jpg"])  # float32 (2, D)

    It takes an engine that was built with `--embedding-only`, or on the CPU the package's graph without the
    masker.  Where the package has neither, it computes the mask and drops it, and `backend.why` says so.  The
    backend is chosen once, here.  Several threads may use one embedder: they take turns.

    Args:
        package: the folder NAME.nemu, or an opened `Package`.
        backend: `auto`, `onnxruntime`, `tensorrt` or `ep-rtx`.
        device: number of the GPU.
        channel_order: `rgb` or `bgr`, of arrays that come in.
        precision: as of `Explainer`.  Where the two may choose different engines, give it to both, or compare
            their `embedding_id`.

    Raises:
        PackageError, BackendError, InputError: as `Explainer`.
    """

    def __init__(
        self,
        package: str | os.PathLike[str] | Package,
        *,
        backend: str = "auto",
        device: int = 0,
        channel_order: str = "rgb",
        precision: str | None = None,
    ) -> None:
        super().__init__(package, channel_order=channel_order)
        self._use(choose_embedding(self._package, backend, device, precision))

    def __call__(self, images: Sequence[ImageLike] | np.ndarray) -> np.ndarray:
        """Embed several images, in batches of the backend's size.

        While one batch runs, threads decode and resize the next.

        Args:
            images: a list or tuple of what `Explainer` takes, sizes may differ; or uint8 (N, H, W, 3).

        Returns:
            float32 (N, D), row i for image i.

        Raises:
            InputError: an image that cannot be used (its position is named), or no images.
            BackendError: a run failed, or the embedder is closed.
        """
        if not is_several(images):
            raise InputError(
                f"images: {type(images).__name__}",
                expected="a list or tuple of images, or a uint8 array (N, H, W, 3)",
                cure="put a single image into a list",
            )
        from concurrent.futures import ThreadPoolExecutor  # 10 ms that other callers need not spend

        with ThreadPoolExecutor(thread_count(), "nemu-embed") as pool:
            try:
                return np.concatenate(self._batches(images, pool.submit))
            finally:
                pool.shutdown(cancel_futures=True)

    def warm_up(self) -> None:
        """Do now what would make the first calls slow, see `Explainer.warm_up`.

        Raises:
            BackendError: a run failed, or the embedder is closed.
        """
        with self._turns:
            if isinstance(self._backend, WarmBackend):
                self._backend.warm_up()
            else:
                self._backend.embed(self._prepare.black())

    def _batches(
        self, images: Sequence[Any] | np.ndarray, submit: Callable[..., Future[np.ndarray]]
    ) -> list[np.ndarray]:
        """The embeddings of each batch; `submit` is a pool's."""
        size = self._backend.max_batch

        def prepare(start: int) -> list[Future[np.ndarray]]:
            stop = min(start + size, len(images))
            return [submit(self._fitted, images[i], i) for i in range(start, stop)]

        found, coming = [], prepare(0)
        for start in range(0, len(images), size):
            batch = np.stack([future.result() for future in coming])
            coming = prepare(start + size)
            with self._turns:
                found.append(self._backend.embed(batch))
        return found

    def _fitted(self, image: ImageLike, position: int) -> np.ndarray:
        """uint8 (height, width, 3); the original image is not kept."""
        return self._prepare.numbered(image, position).fitted
