"""Embedder: a package and a backend → embeddings alone, for indexing in bulk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends import EmbeddingBackend, choose_embedding
from runtime.backends.base import WarmBackend
from runtime.backends.threads import thread_count
from runtime.errors import BackendError, InputError
from runtime.image import Geometry, ImageLike, check_channel_order, load_image
from runtime.package import Package

if TYPE_CHECKING:
    from concurrent.futures import Future


class Embedder:
    """The embeddings that an `Explainer` gives, without the masks.

        with Embedder("demo.nemu") as embedder:
            vectors = embedder(["one.jpg", "two.jpg"])  # float32 (2, D)

    It takes an engine that was built with `--embedding-only`, or on the CPU the package's graph without the
    masker; where the package has neither, it computes the mask and drops it, and `backend.why` says so.  The
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
        check_channel_order(channel_order)
        opened = package if isinstance(package, Package) else Package.open(package)
        self._input = opened.manifest.input
        self._geometry = Geometry.from_record(self._input)
        self._channel_order = channel_order
        self._backend = choose_embedding(opened, backend, device, precision)
        self._embedding_id = f"{opened.manifest.embedding_id}-{self._backend.precision}"
        self._one_run = threading.Lock()
        self._closed = False

    @property
    def backend(self) -> EmbeddingBackend:
        """The backend that was chosen: its `name` and `why` say which and why, `outputs` what it computes."""
        return self._backend

    @property
    def embedding_id(self) -> str:
        """Encoder, kind of embedding and precision: only equal ids may be compared."""
        return self._embedding_id

    def __call__(self, images: Sequence[ImageLike] | np.ndarray) -> np.ndarray:
        """Embed several pictures, in batches of what the backend takes.

        While one batch runs, threads decode and resize the next.

        Args:
            images: a list or tuple of what `Explainer` takes, sizes may differ; or uint8 (N, H, W, 3).

        Returns:
            float32 (N, D), row i for picture i.

        Raises:
            InputError: a picture that cannot be used (its position is named), or none at all.
            BackendError: a run failed, or the embedder is closed.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
        if not several or len(images) == 0:
            raise InputError(
                "no images (an empty list or array)" if several else f"images: {type(images).__name__}",
                expected="a list or tuple of pictures, or a uint8 array (N, H, W, 3), of at least one",
                cure="put a single picture into a list",
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
        with self._one_run:
            self._refuse_closed()
            if isinstance(self._backend, WarmBackend):
                self._backend.warm_up()
            else:
                self._backend.embed(np.zeros((1, self._input.height, self._input.width, 3), np.uint8))

    def close(self) -> None:
        """Give back the backend's memory and handles; may be called again."""
        self._closed = True
        with self._one_run:
            self._backend.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            with self._one_run:
                self._refuse_closed()
                found.append(self._backend.embed(batch))
        return found

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError("this embedder is closed", expected="an open one", cure="make a new Embedder")

    def _fitted(self, image: ImageLike, position: int) -> np.ndarray:
        """uint8 (height, width, 3), as the graph takes it."""
        try:
            return self._geometry.fit(load_image(image, channel_order=self._channel_order))[0]
        except InputError as error:
            raise InputError(
                f"images[{position}]: {error.came}", expected=error.expected, cure=error.cure
            ) from error
