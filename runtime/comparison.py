"""Comparison: why two images match, or do not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError
from runtime.explanation import Explanation, check_name
from runtime.media.encode import encode_png
from runtime.media.occlusion import cosine
from runtime.media.overlay import STYLES, grid


class ComparisonPaths(NamedTuple):
    """Files of `Comparison.save`."""

    image: Path
    record: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> ComparisonPaths:
        """The paths for a comparison of this name; nothing is written."""
        return cls(folder / f"{name}.compare.png", folder / f"{name}.compare.json")


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two explanations, the similarity of their embeddings, and the similarity of what the masks keep.

    If the masker takes targets, each image is explained toward the other's embedding.

    Raises:
        InputError: embeddings with different ids, or an explanation without `masked_embedding`.
    """

    a: Explanation
    b: Explanation
    exchanged: tuple[np.ndarray, np.ndarray] | None = None
    """float32 (D,) each: embeddings of what the mask of b keeps of image a, and the mask of a of image b."""

    def __post_init__(self) -> None:
        if self.a.embedding_id != self.b.embedding_id:
            raise InputError(
                f"embeddings {self.a.embedding_id} and {self.b.embedding_id}",
                expected="two embeddings with one id",
                cure="explain both images with the same package and precision",
            )
        for name in ("a", "b"):
            if getattr(self, name).masked_embedding is None:
                raise InputError(
                    f"explanation {name} has no masked_embedding",
                    expected="explanations with the embedding of what their masks keep",
                    cure="explainer.compare(a, b), or explainer(image, fidelity=True)",
                )

    @property
    def similarity(self) -> float:
        """Cosine of the two embeddings, in [-1, 1]."""
        return cosine(self.a.embedding, self.b.embedding)

    @property
    def kept_similarity(self) -> float:
        """Cosine of the embeddings of what the masks keep of each image, in [-1, 1].

        If it is near `similarity`, the masks show what made the two match.  Empty masks match too, so check
        `Explanation.degenerate` as well.
        """
        one, other = self.a.masked_embedding, self.b.masked_embedding
        return 0.0 if one is None or other is None else cosine(one, other)

    @property
    def exchanged_similarity(self) -> float | None:
        """`kept_similarity` with the two masks exchanged on the graph's grid, as a baseline: what masks of
        this size and shape keep of an image that they were not made for.  None if it was not measured."""
        return None if self.exchanged is None else cosine(*self.exchanged)

    def overlay(self, *, keep: float | None = None, style: str = STYLES[0]) -> np.ndarray:
        """Draw the two overlays side by side, each in its image's own size: uint8 (H, W, 3).

        Arguments and errors are those of `Explanation.overlay`.
        """
        return grid([[one.overlay(keep=keep, style=style) for one in (self.a, self.b)]])

    def save(
        self,
        folder: str | Path,
        name: str,
        *,
        force: bool = False,
        keep: float | None = None,
        style: str = STYLES[0],
    ) -> ComparisonPaths:
        """Write NAME.compare.png and NAME.compare.json; both, or neither if something fails.

        Args:
            keep, style: as of `overlay`; the numbers are always those of the whole masks.

        Raises:
            InputError: a name that is not a plain file name; as `overlay`.
            OutputExists: one of the files is there and `force` is not given.
        """
        check_name(name)
        paths = ComparisonPaths.of(Path(folder), name)
        with (
            atomic_file(paths.record, force=force) as record,
            atomic_file(paths.image, force=force) as image,
        ):
            image.write_bytes(encode_png(self.overlay(keep=keep, style=style)))
            record.write_text(json.dumps(self.to_json(), indent=2) + "\n")
        return paths

    def to_json(self) -> dict[str, Any]:
        """All similarities and both explanations, as plain values."""
        return {
            "similarity": self.similarity,
            "kept_similarity": self.kept_similarity,
            "exchanged_similarity": self.exchanged_similarity,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
        }
