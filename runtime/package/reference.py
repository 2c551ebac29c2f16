"""The reference of a package: images, and the outputs that were stored for them at the build."""

from __future__ import annotations

import zipfile
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import PackageError, ParityError
from runtime.package.folder import REFERENCE, Package
from runtime.package.parity import LIMITS, Limits, Parity, measure

REQUIRED = ("images", "embedding", "mask")
"""Names of the arrays in every `reference.npz`."""


class Reference(NamedTuple):
    """`reference.npz`: images on the graph's grid and their expected outputs."""

    images: np.ndarray
    """uint8 (N, height, width, 3)"""
    embedding: np.ndarray
    """float32 (N, D)"""
    mask: np.ndarray
    """float32 (N, height, width)"""
    toward: np.ndarray | None = None
    """float32 (N, D): a target for each image; None in a package that takes no targets."""
    toward_mask: np.ndarray | None = None
    """float32 (N, height, width): the masks for these targets; the embeddings do not depend on targets."""

    def arrays(self) -> dict[str, Any]:
        """The arrays of `reference.npz`, by name; without those that are None."""
        return {name: array for name, array in self._asdict().items() if array is not None}

    def targets(self) -> tuple[np.ndarray, Reference]:
        """The targets, and a reference with the same images and the masks for the targets.

        Raises:
            PackageError: the reference was made without targets.
        """
        if self.toward is None or self.toward_mask is None:
            raise PackageError(
                f"{REFERENCE} holds no targets",
                expected="arrays toward and toward_mask",
                cure="build the package again with nemu build",
            )
        return self.toward, Reference(self.images, self.embedding, self.toward_mask)

    def target_effect(self) -> float:
        """Mean |mask for the target − mask of the image itself|: the error of a backend that ignores targets.

        A gate whose limit for the mask error is higher cannot detect such a backend.  Raises as `targets`.
        """
        _, asked = self.targets()
        return float(np.mean(np.abs(asked.mask - self.mask), dtype=np.float64))

    def compare(self, embedding: np.ndarray, mask: np.ndarray, *, precision: str) -> Parity:
        """Compare outputs for `images` with the reference, by the limits of the precision."""
        return measure(
            embedding=embedding,
            mask=mask,
            reference_embedding=self.embedding,
            reference_mask=self.mask,
            limits=limits_for(precision),
        )


def load_reference(package: Package) -> Reference:
    """Read `reference.npz`, without pickles.

    Raises:
        PackageError: the package was built without it, or it holds other arrays.
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
            cure="build the package again with nemu build",
        ) from error


def limits_for(precision: str) -> Limits:
    """The limits for a precision; raises `ParityError` if it has none."""
    if precision not in LIMITS:
        raise ParityError(
            f"precision {precision!r} has no limits",
            expected=" or ".join(LIMITS),
            cure="build the package again in one of these (--precision)",
        )
    return LIMITS[precision]
