"""Does a package still give, here, the outputs it was born with?"""

from __future__ import annotations

import zipfile
from typing import Any, NamedTuple

import numpy as np

from runtime.backends import Backend, EmbeddingBackend, TargetBackend
from runtime.errors import PackageError, ParityError
from runtime.package import REFERENCE, Package
from runtime.parity import LIMITS, Limits, Parity, measure

REQUIRED = ("images", "embedding", "mask")
"""The arrays that every `reference.npz` holds."""


class Reference(NamedTuple):
    """`reference.npz`: images on the graph's grid and the outputs they must give."""

    images: np.ndarray
    """uint8 (N, height, width, 3)"""
    embedding: np.ndarray
    """float32 (N, D)"""
    mask: np.ndarray
    """float32 (N, height, width)"""
    toward: np.ndarray | None = None
    """float32 (N, D): a target for each image; None in a package that takes none."""
    toward_mask: np.ndarray | None = None
    """float32 (N, height, width): the masks for these targets, which leave the embedding as it is."""

    def arrays(self) -> dict[str, Any]:
        """Those that there are, by name: what `reference.npz` holds."""
        return {name: array for name, array in self._asdict().items() if array is not None}

    def targets(self) -> tuple[np.ndarray, Reference]:
        """The targets, and the reference of the same images whose masks are those for the targets.

        Raises:
            PackageError: it was made without targets.
        """
        if self.toward is None or self.toward_mask is None:
            raise PackageError(
                f"{REFERENCE} holds no targets, so that nothing can be held against them",
                expected="arrays toward and toward_mask",
                cure="build the package again with python -m export.build_engine",
            )
        return self.toward, Reference(self.images, self.embedding, self.toward_mask)

    def target_effect(self) -> float:
        """Mean |mask for the target − mask of the image itself|: the mask error of what ignores its targets.

        Where it is below the limit of a gate, that gate cannot tell the two apart.  Raises as `targets`.
        """
        _, asked = self.targets()
        return float(np.mean(np.abs(asked.mask - self.mask), dtype=np.float64))

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
            wanted = [name for name in Reference._fields if name in REQUIRED or name in arrays.files]
            return Reference(**{name: arrays[name] for name in wanted})
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise PackageError(
            f"{path} cannot be read ({error})",
            expected="arrays " + ", ".join(REQUIRED),
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


def run_all_toward(
    backend: TargetBackend, images: np.ndarray, toward: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same with a target for each image: toward is float32 (N, D)."""
    most = backend.max_batch
    pieces = [
        backend.run_toward(images[start : start + most], toward[start : start + most])
        for start in range(0, len(images), most)
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


def verify_toward(package: Package, backend: TargetBackend) -> Parity:
    """The same of a backend that takes targets, on the reference's: `Reference.targets`."""
    toward, asked = load_reference(package).targets()
    return _held(package, backend, asked, *run_all_toward(backend, asked.images, toward))


def _held(
    package: Package,
    backend: Backend | EmbeddingBackend | TargetBackend,
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
            cure="another precision or backend (--backend onnxruntime); build an engine again on this device",
        )
    return parity
