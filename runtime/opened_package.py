"""The base of `Explainer` and `Embedder`: images prepared for the graph, turns of threads, closing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from runtime.backends.base import Backend, EmbeddingBackend
from runtime.errors import BackendError, InputError
from runtime.media.geometry import Geometry, ImageLike, Placement, check_channel_order, load_image
from runtime.package.folder import Package
from runtime.package.manifest import Manifest
from runtime.package.records import InputRecord

AnyBackend = TypeVar("AnyBackend", Backend, EmbeddingBackend)
Self = TypeVar("Self", bound="OpenedPackage")  # type: ignore[type-arg]


class Prepared(NamedTuple):
    """An image that the backend can run."""

    original: np.ndarray
    """uint8 (H0, W0, 3) RGB"""
    fitted: np.ndarray
    """uint8 (height, width, 3), on the graph's grid"""
    placement: Placement
    milliseconds: float


class Preparer:
    """Decodes images and resizes them as the package's manifest says.

    Args:
        record: `Manifest.input`.
        channel_order: `rgb` or `bgr`, of arrays; files and PIL images know their own.

    Raises:
        InputError: another channel order.
    """

    def __init__(self, record: InputRecord, *, channel_order: str = "rgb") -> None:
        check_channel_order(channel_order)
        self.channel_order = channel_order
        self._geometry = Geometry.from_record(record)

    def __call__(self, image: ImageLike) -> Prepared:
        """Prepare one image; raises `InputError` if it cannot be used."""
        started = time.perf_counter()
        original = load_image(image, channel_order=self.channel_order)
        fitted, placement = self._geometry.fit(original)
        return Prepared(original, fitted, placement, 1e3 * (time.perf_counter() - started))

    def numbered(self, image: ImageLike, position: int) -> Prepared:
        """Prepare one image of a list; the error names its position."""
        try:
            return self(image)
        except InputError as error:
            raise InputError(
                f"images[{position}]: {error.came}", expected=error.expected, cure=error.cure
            ) from error

    def black(self) -> np.ndarray:
        """uint8 (1, height, width, 3): a black image, for runs whose outputs nobody reads."""
        return np.zeros((1, self._geometry.height, self._geometry.width, 3), np.uint8)


def batch_of(prepared: Sequence[Prepared]) -> np.ndarray:
    """uint8 (N, height, width, 3); a view if N is 1."""
    one = prepared[0].fitted
    return one[None] if len(prepared) == 1 else np.stack([each.fitted for each in prepared])


def is_several(images: Any) -> bool:
    """Whether these are several images: a list, a tuple or an array with four axes.

    Raises:
        InputError: an empty one.
    """
    several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    if several and len(images) == 0:
        raise InputError(
            "no images (an empty list or array)",
            expected="at least one",
            cure="check where the list comes from",
        )
    return several


class Turns:
    """A lock that one thread at a time holds, until it is closed: `with turns: …`.

    Args:
        name: the class that is closed, for the error.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._closed:
            self._lock.release()
            self.check()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def check(self) -> None:
        """Raise `BackendError` if it is closed."""
        if self._closed:
            raise BackendError(
                f"this {self._name.lower()} is closed",
                expected="an open one",
                cure=f"make a new {self._name}",
            )

    @contextmanager
    def last(self) -> Iterator[None]:
        """Close it, wait for the thread that holds it, and hold it; may be called again."""
        self._closed = True
        with self._lock:
            yield


class OpenedPackage(Generic[AnyBackend]):
    """A package and the backend that runs it.

    A subclass opens its backend in `__init__` and hands it to `_use`.

    Args:
        package: the folder NAME.nemu, or an opened `Package`.
        channel_order: `rgb` or `bgr`, of arrays that come in.
    """

    def __init__(self, package: str | os.PathLike[str] | Package, *, channel_order: str) -> None:
        self._package = package if isinstance(package, Package) else Package.open(package)
        self._prepare = Preparer(self.manifest.input, channel_order=channel_order)
        self._turns = Turns(type(self).__name__)

    def _use(self, backend: AnyBackend) -> None:
        """Run this backend from now on, and close it at the end."""
        self._backend: AnyBackend = backend
        self._embedding_id = f"{self.manifest.embedding_id}-{backend.precision}"

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self._package.manifest

    @property
    def backend(self) -> AnyBackend:
        """The backend that was chosen: its `name` and `why` say which and why."""
        return self._backend

    @property
    def embedding_id(self) -> str:
        """Encoder, kind of embedding and precision: only embeddings with equal ids may be compared."""
        return self._embedding_id

    def close(self) -> None:
        """Release the backend's memory and handles; may be called again."""
        with self._turns.last():
            self._close_backends()

    def _close_backends(self) -> None:
        self._backend.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
