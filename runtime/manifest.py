"""The records of a package: `manifest.json` and the sidecar of an engine, typed and checked.

What they describe on disk is in `runtime.package`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import IntegrityError, SchemaError
from runtime.typed_json import json_object, read

SCHEMA = 6
"""2 added `training` and `metrics`, 3 `refused` and `left_out`, 4 `level`, 5 `target`; older packages lack
what came later.  6 stores codes (`runtime.reasons`) where older packages hold sentences."""
OUTPUTS = ("embedding", "mask")
"""Of every graph that explains, in this order."""
TOWARD = "toward"
"""Second input of a graph that takes targets: float32 (N, D); a row of zeros is the image itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputRecord:
    """What the graph takes, and how a photograph becomes it (executed by `runtime.image`)."""

    name: str
    """Name of the graph's input; uint8 (N, height, width, 3)."""
    height: int
    width: int
    mean: tuple[float, float, float]
    """Per-channel mean in [0, 1] units; applied inside the graph."""
    std: tuple[float, float, float]
    resize: str
    """`crop`, `squash` or `letterbox`; see `runtime.image.Geometry`."""
    crop_pct: float
    """Share of the scaled image that the centre crop keeps (timm's meaning); 1 for other rules."""
    interpolation: str
    """`bilinear` or `bicubic`."""
    channel_order: str = "rgb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputRecord:
    """One output of the graph."""

    name: str
    shape: tuple[str | int, ...]
    """Symbolic where an axis is free, e.g. `("N", 512)`; always float32."""
    meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """The frozen encoder that the package was made from."""

    id: str
    """As given to `python -m train --encoder`, e.g. `timm/resnet50`."""
    fingerprint: str
    """sha256 of the weights."""
    embedding: str
    """`pooled`, `head` or `cls`: which vector the embedding is; `own` for an encoder of the user's own."""
    l2_normalized: bool
    dimension: int
    license: str
    """As far as the weights declare one; `unknown` otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskerRecord:
    """The masking network that was trained for it."""

    architecture: str
    sha256: str
    """Of `masker.safetensors`."""
    objective: str
    config: dict[str, Any]
    """The training configuration, as it stood."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a training run ended: its `summary.json`."""

    steps: int
    """Steps of the whole run."""
    resumed_at: int
    """Step at which the process that ended it took over; 0 for a run in one piece."""
    loss: float
    """Mean over the last steps (`train.training.TAIL`) of the first process, as are the next two."""
    distance: float
    area: float
    processes: int
    images: int
    """Image files in the folder; how many steps saw how many of them, the configuration says."""
    skipped: int
    """Files that could not be decoded; listed in the run's skipped.txt."""
    seconds: float
    """Of the last process's training loop."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """What trained it: package → version.  Empty in a run that did not note them."""
    area_weight: float | None = None
    """λ that the masks were trained with, given or measured; None for a ranking."""
    grey: float | None = None
    """Share of the pixels between 0.2 and 0.8, on images that training did not see where there are some."""
    fault: str | None = None
    """Why nothing can be read from the masks; None where something can."""
    follows: float | None = None
    """How far masks follow a target, 0 to 1, as `train.mixtures.follow` measures it; None without targets."""

    @classmethod
    def from_json(cls, text: str, *, source: str) -> TrainingRecord:
        """Read and check; raises `SchemaError`."""
        return read(cls, json_object(text, source), source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """One measure over several images."""

    mean: float
    std: float
    """Standard deviation over the images, with n − 1."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsRecord:
    """What the masks were worth at the build; measured by `export.metrics`, explained there."""

    images: str
    """Which images, for people."""
    n: int
    fidelity: Spread
    """Cosine of the embedding and that of what the mask keeps."""
    fidelity_moved: Spread
    """The same with each mask moved to a random place: what any mask of this size and shape keeps."""
    fidelity_empty: Spread
    """The same with nothing kept at all."""
    area: Spread
    """Mean mask."""
    degenerate: int
    """Images whose mask is nearly 0 or nearly 1 everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelCheck:
    """What was asked of the curve, and what images kept that it was not fitted on."""

    asked: float
    kept: float
    """Mean over the images and fills, as are `moved` and `area`."""
    low: float
    """Of a tenth of the images it is lower: each image's mean over the fills."""
    high: float
    """Of a tenth of the images it is higher."""
    moved: float
    """What the same regions keep when they are moved to a random place."""
    area: float
    """Share of the pixels that the regions have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelRecord:
    """What a level of the mask means: fitted by `export.level`, read by `runtime.level`."""

    images: str
    """Which images, for people."""
    n: int
    fills: tuple[str, ...]
    """What was shown in the place of hidden pixels: what is kept is the mean over these."""
    share: tuple[float, ...]
    """Of regions, ascending from 0 to 1; see `runtime.level.share_above`."""
    kept: tuple[float, ...]
    """What each keeps on average, ascending: the centred cosine, `runtime.occlusion.kept`."""
    checks: tuple[LevelCheck, ...]
    """Asked against kept: each half of the images asked by the curve of the other half."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetMeasures:
    """Masks toward a target, on mixtures of two pictures by a region (`runtime.assess`).

    A share is that of a mask's sum which lies in the region.
    """

    shown: Spread
    """Share, toward the picture that the region shows."""
    around: Spread
    """Share, toward the picture around it."""
    difference: Spread
    """Of these two, mixture by mixture: 1 if masks follow the target entirely, 0 if they ignore it."""
    present: Spread
    """Mean of the mask toward the picture that the region shows."""
    absent: Spread
    """Mean of the mask toward a picture that is not in the mixture."""
    nothing: float
    """Share of the mixtures whose mask toward that is nearly 0 everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetRecord:
    """What masks toward a target are worth; measured by `export.target`."""

    images: str
    """Which images were mixed, for people."""
    n: int
    """Mixtures."""
    measured: TargetMeasures
    level: LevelRecord
    """What a level of such a mask means: `kept` is a share of the most that any region of it keeps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`, typed.  Written once, when the package is born."""

    schema: int
    nemu: str
    """Version that wrote it."""
    created: str
    """UTC, ISO 8601."""
    embedding_id: str
    """Two embeddings may share an index only if theirs are equal (up to the precision suffix)."""
    encoder: EncoderRecord
    masker: MaskerRecord
    input: InputRecord
    outputs: tuple[OutputRecord, ...]
    parity: dict[str, dict[str, Any]]
    """Figures of the gate, by name of the comparison; see `export.verify`."""
    files: dict[str, str]
    """sha256 of every file the package was born with, by its path inside the package."""
    training: TrainingRecord | None = None
    """The run that trained the masker; None if its folder was not around the masker at the build."""
    metrics: MetricsRecord | None = None
    """What the masks were worth at the build; None in a package of schema 1."""
    refused: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Precision that was tried → why the package has no graph of it: a `runtime.reasons.Reason`."""
    level: LevelRecord | None = None
    """What a level of the mask means; None in a package of schema 3, or where the build had too few images
    that training did not see."""
    target: TargetRecord | None = None
    """What masks toward a target are worth; None if the masker takes none, or where the build had too few
    images that training did not see."""
    left_out: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Engine that was asked for when the package was made → for each precision why there is none."""

    def to_json(self) -> str:
        """The text of `manifest.json`: the fields, and `digest`, the sha256 over them."""
        fields = dataclasses.asdict(self)
        return json.dumps({**fields, "digest": _digest(fields)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Manifest:
        """Read and check; `source` names the file in errors.

        Raises:
            SchemaError: empty, not JSON, a newer schema, or a field missing, unknown or of a wrong type.
            IntegrityError: the fields are not those that the digest was made over.
        """
        fields = json_object(text, source)
        schema = fields.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise SchemaError(
                f"{source} has schema {schema}",
                expected=f"schema {SCHEMA} or older, which is what this version reads",
                cure=f"update this project to {fields.get('nemu')}, which wrote it, or newer",
            )
        digest = fields.pop("digest", None)
        manifest = read(cls, fields, source)
        if digest != _digest(fields):
            raise IntegrityError(
                f"{source} was changed after it was written",
                expected=f"fields whose sha256 is {digest}",
                cure="copy the package again, or build it again with python -m export.build_engine",
            )
        return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The sidecar of one engine: everything that decides whether it fits a device."""

    flavour: str
    """`rtx` or `tensorrt`: which library built it and can load it."""
    version: str
    """Exact version of that library."""
    compute_capability: str
    """Such as `8.7`, or `portable`."""
    precision: str
    """A key of `runtime.parity.LIMITS`, as read back from the parsed network."""
    tensor_types: dict[str, int]
    """How many of the network's tensors have which type; the evidence for `precision`."""
    batch: tuple[int, int, int]
    """min, opt, max of the optimisation profile."""
    onnx: str
    """The package file it was built from."""
    onnx_sha256: str
    package: str
    """`Package.hash` of the package it belongs to."""
    flags: dict[str, Any]
    """Build settings that change the engine."""
    parity: dict[str, Any]
    """Figures of the gate on the device that built it, or `{"not_run": why}`."""
    build_seconds: float
    sha256: str
    """Of the `.engine` file."""
    outputs: tuple[str, ...] = OUTPUTS
    """`("embedding",)` for one that indexes and cannot explain; sidecars without the field have both."""
    inputs: tuple[str, ...] = ("image",)
    """`("image", "toward")` for one that takes a target; sidecars without the field take none."""

    @property
    def embedding_only(self) -> bool:
        """Whether it gives no mask."""
        return self.outputs != OUTPUTS

    @property
    def takes_target(self) -> bool:
        """Whether it runs on images and a target for each, and on nothing else."""
        return TOWARD in self.inputs

    def needs(self) -> str:
        """What a machine must have to load it, for people."""
        library = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}.get(self.flavour, self.flavour)
        portable = self.compute_capability == "portable"
        gpu = "8.0 or newer" if portable else self.compute_capability
        return f"{library} {self.version} and an NVIDIA GPU of compute capability {gpu}"

    def with_parity(self, figures: dict[str, Any]) -> EngineRecord:
        """The same record with the gate's figures."""
        return dataclasses.replace(self, parity=figures)

    def to_json(self) -> str:
        """The text of the sidecar.  One that explains an image by itself is written as it was before others
        came."""
        fields = dataclasses.asdict(self)
        if not self.embedding_only:
            del fields["outputs"]
        if not self.takes_target:
            del fields["inputs"]
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> EngineRecord:
        """Read and check; raises `SchemaError`."""
        return read(cls, json_object(text, source), source)


def changed(path: Path) -> IntegrityError:
    """The error for a file whose bytes are not those that were recorded."""
    return IntegrityError(
        f"{path} is not the file that was written (its sha256 differs)",
        expected="the bytes that the manifest or sidecar was made from",
        cure="copy the package again, or build it again with python -m export.build_engine",
    )


def _digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
