"""Explanation: the embedding and mask of one image, in numpy, checked when it is made."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError, UnusableOutput
from runtime.level import curve_of, kept_by, level_for, share_above, share_for
from runtime.media.encode import encode_png
from runtime.media.geometry import Box, Placement
from runtime.media.occlusion import cosine
from runtime.media.overlay import STYLES, overlay
from runtime.package.records import LevelRecord

NEARLY_NOTHING = 0.01
"""A mask whose mean is below this, or above 1 minus this, is degenerate."""
_TOLERANCE = 1e-3  # how far half precision may put a mask outside [0, 1]


class SavedPaths(NamedTuple):
    """Files of `Explanation.save`."""

    overlay: Path
    mask: Path
    record: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The embedding of one image, and which pixels it comes from.

    Raises:
        BackendError: an array of another shape or dtype, a value that is not finite, or a mask outside
            [0, 1] by more than 0.001.
    """

    embedding: np.ndarray
    """float32 (D,): the encoder's own embedding; `embedding_id` says which vector of the encoder it is."""
    graph_mask: np.ndarray
    """float32 (h, w) in [0, 1], on the graph's grid; higher = more important."""
    placement: Placement
    """Where that grid lies on the image."""
    image: np.ndarray
    """uint8 (H0, W0, 3) RGB, the original image.  If you called the Explainer with an RGB array, this is that
    array and not a copy: draw the overlay before you overwrite it."""
    embedding_id: str
    """Only embeddings with equal ids may be compared."""
    timing: Mapping[str, float | str]
    """Milliseconds: `preprocess` (decode and resize this image) and `run` (the backend's run of the whole
    batch).  `batch`: number of images in the batch.  `degraded`, only if it applies: why the backend is
    slower than it could be."""
    masked_embedding: np.ndarray | None = None
    """float32 (D,): the embedding of what the mask keeps (`runtime.media.occlusion`); None without
    fidelity."""
    curve: LevelRecord | None = None
    """The package's curve, which says what a level of its masks means; None if it has none."""
    target: np.ndarray | None = None
    """float32 (D,): the target; None if it is the image's own embedding."""

    def __post_init__(self) -> None:
        _check("embedding", self.embedding, ndim=1)
        if self.masked_embedding is not None:
            _check("embedding of the masked image", self.masked_embedding, ndim=1)
        if self.target is not None:
            _check("target", self.target, ndim=1)
        low, high = _check("mask", self.graph_mask, ndim=2)
        if low < -_TOLERANCE or high > 1 + _TOLERANCE or self.graph_mask.shape != self.placement.grid:
            raise _unusable(
                f"a mask {self.graph_mask.shape} from {low:.4g} to {high:.4g}",
                f"a mask {self.placement.grid} in [0, 1]",
            )
        if self.image.dtype != np.uint8 or self.image.shape != (*self.placement.size, 3):
            raise InputError(
                f"an image {self.image.dtype} {self.image.shape}",
                expected=f"uint8 {(*self.placement.size, 3)}, the image that the placement was made for",
                cure="pass the array that load_image returned",
            )

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """float32 (H0, W0) in [0, 1] on the original pixels, 0 outside `valid`.

        It is upsampled at the first use, and then kept.
        """
        return self.placement.restore(self.graph_mask)

    @property
    def valid(self) -> Box:
        """left, top, right, bottom: the box of original pixels that the encoder saw."""
        return self.placement.valid

    @property
    def fidelity(self) -> float | None:
        """Cosine of the embedding and of the masked image's embedding, in [-1, 1].  Near 1, the mask keeps
        what made the embedding.  Toward a target, the cosine of the target and of the masked image's
        embedding: compare it with `similarity`.  None if fidelity was not asked for."""
        if self.masked_embedding is None:
            return None
        return cosine(self.embedding if self.target is None else self.target, self.masked_embedding)

    @property
    def similarity(self) -> float | None:
        """Cosine of the embedding and the target, in [-1, 1]; None without a target."""
        return None if self.target is None else cosine(self.embedding, self.target)

    @property
    def absent(self) -> bool:
        """Whether the image shows nothing of its target: the mask is nearly 0 everywhere."""
        return self.target is not None and what_is_degenerate(self.graph_mask) == "empty"

    @property
    def degenerate(self) -> str:
        """`empty` or `full` if the mask is nearly 0 or nearly 1 everywhere and so shows nothing; else "".

        Toward a target, an empty mask is a valid answer: see `absent`.
        """
        return "" if self.absent else what_is_degenerate(self.graph_mask)

    def region(self, keep: float = 0.9) -> np.ndarray:
        """The smallest region that keeps this much of the embedding: bool (H0, W0), False outside `valid`.

        The package's curve gives its size, which is right on average, not for each image; the range is in
        the package's card.  Where the target is `absent`, the region is empty.

        Args:
            keep: a centred cosine (`runtime.media.occlusion.kept`), above 0 and at most 1.  Toward a target,
                a share of the most that any region keeps of the target.

        Raises:
            InputError: `keep` out of range, or a package without a curve.
        """
        share = share_for(curve_of(self.curve), keep)
        level = level_for(self.graph_mask, 0 if self.absent else share)
        return self.placement.restore((self.graph_mask >= level).astype(np.float32)) > 0.5

    def kept_at(self, level: float) -> float:
        """How much the pixels at or above this level of the mask keep, on average; see `region`.

        Raises:
            InputError: a level outside [0, 1], or a package without a curve.
        """
        if not 0 <= level <= 1:
            raise InputError(f"level={level}", expected="0 to 1, as the mask", cure="kept_at(0.5)")
        return kept_by(curve_of(self.curve), share_above(self.graph_mask, level))

    def overlay(self, *, keep: float | None = None, style: str = STYLES[0]) -> np.ndarray:
        """Draw the mask over the image: uint8 (H0, W0, 3); see `runtime.media.overlay`.

        Args:
            keep: draw only the region that keeps this much: `spotlight` shows the whole region with a line
                around it, `heat` colours the mask inside it.
            style: one of `runtime.media.overlay.STYLES`.

        Raises:
            InputError: as `region`; or no such style.
        """
        mask = self.mask
        if keep is not None:
            region = self.region(keep)
            mask = region.astype(np.float32) if style == "spotlight" else mask * region
        return overlay(self.image, mask, valid=self.valid, style=style)

    def save(self, folder: str | Path, name: str, *, force: bool = False) -> SavedPaths:
        """Write NAME.overlay.png, NAME.mask.npy (float32, original pixels) and NAME.json.

        All three are written, or none if something fails.

        Raises:
            InputError: a name that is not a plain file name.
            OutputExists: one of the files is there and `force` is not given.
        """
        check_name(name)
        paths = SavedPaths(*(Path(folder, name + end) for end in (".overlay.png", ".mask.npy", ".json")))
        # Writing is all inside, renaming is all at the end.
        with (
            atomic_file(paths.record, force=force) as record,
            atomic_file(paths.mask, force=force) as mask,
            atomic_file(paths.overlay, force=force) as image,
        ):
            image.write_bytes(encode_png(self.overlay()))
            with mask.open("wb") as file:
                np.save(file, self.mask)
            record.write_text(json.dumps(self.to_json(), indent=2) + "\n")
        return paths

    def to_json(self) -> dict[str, Any]:
        """Content of NAME.json; the embedding's numbers read back to the same float32."""
        return {**self.facts(), "embedding": [float(f"{value:.9g}") for value in self.embedding]}

    def facts(self) -> dict[str, Any]:
        """What `to_json` gives, without the embedding, which takes longer to write than the rest."""
        toward = {}
        if self.target is not None:
            similarity = round(cosine(self.embedding, self.target), 6)
            toward = {"toward": {"similarity": similarity, "absent": self.absent}}
        return {
            "embedding_id": self.embedding_id,
            "image_size": list(self.placement.size),
            "valid": list(self.valid),
            "mask": {
                "mean": round(float(self.graph_mask.mean()), 6),
                "above_half": round(float((self.graph_mask > 0.5).mean()), 6),
                "degenerate": self.degenerate,
            },
            "fidelity": None if self.fidelity is None else round(self.fidelity, 6),
            **toward,
            "timing": {k: round(v, 3) if isinstance(v, float) else v for k, v in self.timing.items()},
        }


def what_is_degenerate(mask: np.ndarray) -> str:
    """`empty`, `full` or "" for a mask float32 (h, w), see `Explanation.degenerate`."""
    mean = float(mask.mean())
    return "empty" if mean < NEARLY_NOTHING else "full" if mean > 1 - NEARLY_NOTHING else ""


def check_name(name: str) -> None:
    """Raise `InputError` unless `name` is a plain file name."""
    if not name or Path(name).name != name:
        raise InputError(f"name={name!r}", expected="a plain file name", cure="put the folders into `folder`")


def _check(name: str, array: np.ndarray, *, ndim: int) -> tuple[float, float]:
    """Check an array; returns its least and greatest value (both are finite only if every value is)."""
    if array.dtype != np.float32 or array.ndim != ndim or array.size == 0:
        raise _unusable(f"{name}: {array.dtype} {array.shape}", f"{name}: float32 with {ndim} axes")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _unusable(f"{name}: {np.count_nonzero(~np.isfinite(array))} values not finite", "finite values")
    return low, high


def _unusable(came: str, expected: str) -> UnusableOutput:
    return UnusableOutput(
        f"the backend returned {came}",
        expected=expected,
        cure="nemu verify PACKAGE; if that fails, build the package again in fp32",
    )
