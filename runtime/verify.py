"""Verify that a package still gives, on this machine, the outputs that were stored at its build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.backends.base import Backend, EmbeddingBackend, OpenBackend, TargetBackend
from runtime.errors import ParityError
from runtime.package.folder import REFERENCE, Package
from runtime.package.parity import Parity
from runtime.package.reference import Reference, limits_for, load_reference


def run_all(backend: Backend, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run any number of images: embedding float32 (N, D), mask float32 (N, height, width)."""
    return _in_batches(backend.run, backend.max_batch, images)


def run_all_toward(
    backend: TargetBackend, images: np.ndarray, toward: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run any number of images with a target for each, float32 (N, D); returns as `run_all`."""
    return _in_batches(backend.run_toward, backend.max_batch, images, toward)


def _in_batches(run: Callable[..., Any], most: int, *arrays: np.ndarray) -> Any:
    """The outputs of `run`, which gets at most `most` rows of each array at once."""
    starts = range(0, len(arrays[0]), most)
    pieces = [run(*(array[start : start + most] for array in arrays)) for start in starts]
    return tuple(map(np.concatenate, zip(*pieces, strict=True)))


def embed_all(backend: EmbeddingBackend, images: np.ndarray) -> np.ndarray:
    """Embed any number of images: float32 (N, D)."""
    starts = range(0, len(images), backend.max_batch)
    return np.concatenate([backend.embed(images[start : start + backend.max_batch]) for start in starts])


def verify(package: Package, backend: Backend) -> Parity:
    """Run the images of `reference.npz` and compare the outputs with the gate's limits.

    Raises:
        ParityError: an output is beyond the limits for the backend's precision.
        PackageError: the package has no reference.
        BackendError: the run failed.
    """
    reference = load_reference(package)
    return _checked(package, backend, reference, *run_all(backend, reference.images))


def verify_embedding(package: Package, backend: EmbeddingBackend) -> Parity:
    """Verify a backend without masks: only the measures in `Parity.embedding_to_json` mean something."""
    reference = load_reference(package)
    return _checked(package, backend, reference, embed_all(backend, reference.images), reference.mask)


def verify_toward(package: Package, backend: TargetBackend) -> Parity:
    """Verify a backend that takes targets, with `Reference.targets`."""
    toward, asked = load_reference(package).targets()
    return _checked(package, backend, asked, *run_all_toward(backend, asked.images, toward))


def _checked(
    package: Package,
    backend: OpenBackend,
    reference: Reference,
    embedding: np.ndarray,
    mask: np.ndarray,
) -> Parity:
    """Compare with the gate's limits."""
    limits = limits_for(backend.precision)
    parity = reference.compare(embedding, mask, precision=backend.precision)
    if failures := parity.failures(limits):
        raise ParityError(
            f"{package.path} on {backend.name} ({backend.precision}): " + "; ".join(failures),
            expected=f"the outputs in {REFERENCE}, within {limits}",
            cure="another precision or backend (--backend onnxruntime); build an engine again on this device",
        )
    return parity
