"""The base of `Explainer` and `Embedder`: an opened package, its backend, turns of threads, closing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

from runtime.backends.base import Backend, EmbeddingBackend
from runtime.errors import BackendError
from runtime.package.folder import Package
from runtime.package.manifest import Manifest
from runtime.prepare import Preparer

AnyBackend = TypeVar("AnyBackend", Backend, EmbeddingBackend)
Self = TypeVar("Self", bound="OpenedPackage")  # type: ignore[type-arg]


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
