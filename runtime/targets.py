"""Targets: turn embeddings, images and explanations into target vectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from runtime.errors import InputError
from runtime.explanation import Explanation
from runtime.media.geometry import ImageLike

if TYPE_CHECKING:
    import PIL.Image

TargetLike = Union["np.ndarray", Explanation, str, "os.PathLike[str]", bytes, "PIL.Image.Image"]
"""A float array (D,) is an embedding, a uint8 array an image."""


def target_vectors(
    toward: Any, n: int | None, *, embed: Callable[[ImageLike], np.ndarray], embedding_id: str, dimension: int
) -> np.ndarray:
    """Make target vectors, float32 (n, D): one for each of n images.

    Args:
        toward: a `TargetLike`, used for all n images; or a list or tuple of n, or a float array (n, D).
        n: number of images; None for a call with a single image, which takes a single target.
        embed: image → its embedding, (D,).
        embedding_id: embedding id that targets must have.
        dimension: D.

    Raises:
        InputError: another number, dtype, dimension or id, a value that is not finite, or an image that
            cannot be used.
    """
    vector = partial(_vector, embed=embed, embedding_id=embedding_id, dimension=dimension)
    several = isinstance(toward, (list, tuple)) or (_is_float(toward) and toward.ndim == 2)
    if not several:
        return np.repeat(vector(toward)[None], n or 1, axis=0)
    if n is None or len(toward) != n:
        raise InputError(
            f"{len(toward)} targets for {n or 1} image{'s' * (n not in (None, 1))}",
            expected="one target for all of them" + ", or one for each in the same order" * (n is not None),
            cure="give a list of as many targets as images, or a single one",
        )
    return np.stack([vector(one) for one in toward])


def _vector(
    toward: Any, *, embed: Callable[[ImageLike], np.ndarray], embedding_id: str, dimension: int
) -> np.ndarray:
    """Make one target vector, float32 (D,)."""
    if isinstance(toward, Explanation):
        if toward.embedding_id != embedding_id:
            raise InputError(
                f"a target of embedding id {toward.embedding_id}",
                expected=embedding_id,
                cure="explain it with the same package and precision",
            )
        return toward.embedding
    if not _is_float(toward):
        return embed(toward)
    if toward.shape != (dimension,) or not np.isfinite(toward).all():
        odd = "" if toward.shape != (dimension,) else ", with values that are not finite"
        raise InputError(
            f"a target {toward.dtype} {toward.shape}{odd}",
            expected=f"float32 ({dimension},), finite: an embedding of this package",
            cure="give an embedding that this package made; images are uint8 arrays, paths or bytes",
        )
    return toward.astype(np.float32)


def _is_float(toward: Any) -> bool:
    return isinstance(toward, np.ndarray) and np.issubdtype(toward.dtype, np.floating)
