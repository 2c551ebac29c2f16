"""The configuration of a training run: every setting that changes its result, checked when it is made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import InputError, SchemaError
from runtime.media.geometry import RESIZES

MASKERS = ("lateral", "lateral-early", "unet")
"""Decoders: ours, ours without the deepest feature map, and the authors'."""
REMOVED_MASKERS = ("lateral-narrow", "lateral-coarse", "lateral-wide")
"""Decoders that version 0.1.0 also had."""
EMBEDDINGS = ("pooled", "head", "cls")
OBJECTIVES = ("sparse", "plain", "contrastive", "ranking", "class")
TOWARD = ("sparse", "plain", "contrastive")
"""Objectives that work with a target."""
FEWEST_TO_PAIR = 3
"""Images that a batch of pairs needs at least."""
FILLS = ("zero", "noise", "blur", "mixed")
AUGMENTATIONS = ("none", "crop")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
_CHOICES = {
    "masker": MASKERS,
    "objective": OBJECTIVES,
    "fill": FILLS,
    "augment": AUGMENTATIONS,
    "precision": PRECISIONS,
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which frozen encoder, and which of its vectors is the embedding.

    `None` takes the value from the model's own configuration.
    """

    encoder: str
    """`timm/NAME`, or `module:factory`, where `factory()` returns an nn.Module whose forward gives
    (embedding, pyramid)."""
    weights: str | None = None
    """A safetensors file for a timm encoder, kept as an absolute path; None loads timm's own weights."""
    embedding: str | None = None
    """Vector of a timm encoder: `pooled` (pre-logits), `head` (projection head) or `cls` (class token)."""
    l2_normalize: bool = False
    """Scale the embedding to unit length."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the graph, pixels."""
    resize: str | None = None
    """How an image becomes that size: `crop`, `squash` or `letterbox`."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    taps: tuple[int, ...] | None = None
    """Indices of the timm feature maps that form the pyramid, shallow to deep."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))
        if self.embedding is not None:
            _one_of("--embedding", self.embedding, EMBEDDINGS)
        if self.resize is not None:
            _one_of("--resize", self.resize, RESIZES)
        if self.image_size is not None and min(self.image_size) < 1:
            raise _bad("--image-size", self.image_size, "positive pixels")
        if self.std is not None and not min(self.std) > 0:
            raise _bad("--std", self.std, "positive numbers")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of `nemu train`."""

    encoder: EncoderConfig
    data: str
    """Folder of images, searched recursively; no labels.  Kept as an absolute path."""
    masker: str = "lateral"
    """The decoder, one of MASKERS; see `train.masker`."""
    image_skip: bool = False
    """Give the authors' decoder the image itself as the shallowest skip."""
    objective: str = "sparse"
    """See `train.objective`."""
    toward: bool | None = None
    """The masker takes a target embedding, and half of each batch are pairs (`train.pairs`).  None becomes
    True with a lateral decoder, an objective of TOWARD and batches of FEWEST_TO_PAIR images or more."""
    area_weight: float | None = None
    """λ, weight of the mask's size in the objective; None: `train.objective.AREA_PRICE` times what the empty
    mask costs with this encoder, fill and data, measured before training; `ranking` has no weight."""
    centred: bool | None = None
    """Take the cosine around the mean embedding of some training images; None becomes True, except for
    `class`, which has no cosine."""
    fill: str = "mixed"
    """What a masked-out pixel is replaced with; see `train.occlusion`."""
    augment: str = "none"
    """`none`, or `crop`: a random crop of 60 to 100 % of the area, mirrored with probability 1/2."""
    steps: int = 2000
    batch_size: int = 32
    """Images of a step, over all processes."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", str(Path(self.data).absolute()))
        for name, choices in _CHOICES.items():
            _one_of(f"--{name}", getattr(self, name), choices)
        if self.toward is None:
            object.__setattr__(self, "toward", self._can_pair())
        if self.centred is None:
            object.__setattr__(self, "centred", self.objective != "class")
        self._check_combinations()
        self._check_numbers()

    def _can_pair(self) -> bool:
        """Whether a target can be trained with the other settings."""
        enough = self.batch_size >= FEWEST_TO_PAIR
        return self.masker != "unet" and self.objective in TOWARD and enough

    def _check_combinations(self) -> None:
        """Raise InputError for settings that exclude each other."""
        if self.image_skip and self.masker != "unet":
            raise _bad("--image-skip with --masker", self.masker, "--masker unet, the decoder that has it")
        if self.area_weight is not None and self.objective == "ranking":
            raise _bad("--objective ranking with --area-weight", self.area_weight, "none: size has no price")
        if self.toward and not self._can_pair():
            raise _bad(
                "--toward with",
                f"--masker {self.masker} --objective {self.objective} --batch-size {self.batch_size}",
                f"a lateral masker, an objective of {', '.join(TOWARD)}, batches of {FEWEST_TO_PAIR} or more",
            )
        if self.objective == "class":
            _check_class(self.encoder, centred=bool(self.centred))

    def _check_numbers(self) -> None:
        """Raise InputError for a number outside its range."""
        for flag, value in (("--steps", self.steps), ("--batch-size", self.batch_size)):
            if value < 1:
                raise _bad(flag, value, "at least 1")
        if self.batch_size < 2 <= self.steps:
            raise _bad("--batch-size", self.batch_size, "at least 2, for the masker's batch statistics")
        for flag, least in (("--seed", self.seed), ("--weight-decay", self.weight_decay)):
            if not 0 <= least < float("inf"):
                raise _bad(flag, least, "0 or more")
        for flag, weight in (("--area-weight", self.area_weight), ("--learning-rate", self.learning_rate)):
            if weight is not None and not 0 < weight < float("inf"):
                raise _bad(flag, weight, "a positive number")

    def to_json(self) -> str:
        """The text that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> TrainConfig:
        """Read a saved configuration; `source` names it in errors.

        Raises:
            SchemaError: not a configuration of this version.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            encoder: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in fields.pop("encoder").items()
            }
            if fields.get("masker") in REMOVED_MASKERS:
                raise SchemaError(
                    f"{source} is of a masker `{fields['masker']}`, which this version does not have",
                    expected="one of " + ", ".join(MASKERS),
                    cure="train again with --masker lateral, or use nemu 0.1.0",
                )
            fields.setdefault("toward", False)  # runs before there were targets did not store it
            missing = {f.name for f in dataclasses.fields(cls)} - {"encoder", *fields}
            if missing:  # today's default may not be what was trained
                raise ValueError("without " + ", ".join(sorted(missing)))
            return cls(encoder=EncoderConfig(**encoder), **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SchemaError(
                f"{source} is not a training configuration ({error})",
                expected="the JSON that nemu train writes",
                cure="train again with this version",
            ) from error


def _check_class(encoder: EncoderConfig, *, centred: bool) -> None:
    """Raise InputError unless the embedding is class logits, of which the objective takes the softmax."""
    if encoder.embedding != "head" or encoder.l2_normalize or not encoder.encoder.startswith("timm/"):
        raise InputError(
            f"--objective class with --encoder {encoder.encoder}"
            + (f" --embedding {encoder.embedding}" if encoder.embedding else "")
            + (" --l2-normalize" if encoder.l2_normalize else ""),
            expected="an embedding that is known to be class logits: the head of a timm classifier",
            cure="--embedding head with a timm classifier, or another --objective",
        )
    if centred:
        raise _bad("--objective class with", "--centred", "one of them: class probabilities have no cosine")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _bad(flag, value, "one of " + ", ".join(choices))


def _bad(flag: str, value: object, expected: str) -> InputError:
    return InputError(f"{flag} {value}", expected=expected, cure="see nemu train --help")
