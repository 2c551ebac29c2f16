"""Does a package still give, here, the outputs it was born with?"""

from __future__ import annotations

import zipfile
from typing import NamedTuple

import numpy as np

from runtime.backends import Backend, EmbeddingBackend
from runtime.errors import PackageError, ParityError
from runtime.package import REFERENCE, Package
from runtime.parity import LIMITS, Limits, Parity, measure


class Reference(NamedTuple):
    """`reference.npz`: images on the graph's grid and the outputs they must give."""

    images: np.ndarray
    """uint8 (N, height, width, 3)"""
    embedding: np.ndarray
    """float32 (N, D)"""
    mask: np.ndarray
    """float32 (N, height, width)"""

    def compare(self, embedding: np.ndarray, mask: np.ndarray, *, precision: str) -> Parity:
        """Measure the outputs that something gave for `images`; whose limits apply, the precision says."""
        return measure(
            embedding=embedding,
            mask=mask,
            reference_embedding=self.embedding,
            reference_mask=self.mask,
            limits=limits_for(precision),
        )


def load_reference(package: Package) -> Reference:
    """Read `reference.npz`; nothing in it is unpickled.

    Raises:
        PackageError: the package was built without it, or it holds something else.
    """
    path = package.file(REFERENCE)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Reference(*(arrays[name] for name in Reference._fields))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise PackageError(
            f"{path} cannot be read ({error})",
            expected="arrays images, embedding and mask",
            cure="build the package again with python -m export.build_engine",
        ) from error


def run_all(backend: Backend, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Any number of images through a backend: float32 (N, D), float32 (N, height, width)."""
    pieces = [
        backend.run(images[start : start + backend.max_batch])
        for start in range(0, len(images), backend.max_batch)
    ]
    embeddings, masks = zip(*pieces, strict=True)
    return np.concatenate(embeddings), np.concatenate(masks)


def embed_all(backend: EmbeddingBackend, images: np.ndarray) -> np.ndarray:
    """Any number of images through a backend that gives no mask: float32 (N, D)."""
    starts = range(0, len(images), backend.max_batch)
    return np.concatenate([backend.embed(images[start : start + backend.max_batch]) for start in starts])


def limits_for(precision: str) -> Limits:
    """The gate for a precision; raises `ParityError` where none was set."""
    if precision not in LIMITS:
        raise ParityError(
            f"precision {precision!r} has no limits",
            expected=" or ".join(LIMITS),
            cure="build the package again in one of these (--precision)",
        )
    return LIMITS[precision]


def verify(package: Package, backend: Backend) -> Parity:
    """Run `reference.npz` through a backend and hold the outputs against the gate.

    Raises:
        ParityError: beyond the limits for the backend's precision; says by how much.
        PackageError: no reference.
        BackendError: the run failed.
    """
    reference = load_reference(package)
    return _held(package, backend, reference, *run_all(backend, reference.images))


def verify_embedding(package: Package, backend: EmbeddingBackend) -> Parity:
    """The same of a backend that gives no mask: `Parity.embedding_to_json` has what was measured."""
    reference = load_reference(package)
    return _held(package, backend, reference, embed_all(backend, reference.images), reference.mask)


def _held(
    package: Package,
    backend: Backend | EmbeddingBackend,
    reference: Reference,
    embedding: np.ndarray,
    mask: np.ndarray,
) -> Parity:
    """Against the gate."""
    limits = limits_for(backend.precision)
    parity = reference.compare(embedding, mask, precision=backend.precision)
    if failures := parity.failures(limits):
        raise ParityError(
            f"{package.path} on {backend.name} ({backend.precision}): " + "; ".join(failures),
            expected=f"the outputs in {REFERENCE}, within {limits}",
            cure="run it on another backend: --backend onnxruntime; build the engine again on this device",
        )
    return parity
