"""The two typed files of a package: `manifest.json`, and the sidecar of an engine.

`runtime.package.folder` describes what they stand for on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import IntegrityError, SchemaError
from runtime.package.records import (
    EncoderRecord,
    InputRecord,
    LevelRecord,
    MaskerRecord,
    MetricsRecord,
    OutputRecord,
    ParityRecord,
    TargetRecord,
    TrainingRecord,
    known_figures,
)
from runtime.package.typed_json import json_object, read

SCHEMA = 6
"""Version of the manifest's form.  2 added `training` and `metrics`, 3 `refused` and `left_out`, 4 `level`,
5 `target`; 6 stores codes where older packages hold sentences.
Older packages still open."""
OUTPUTS = ("embedding", "mask")
"""Outputs of every graph that explains, in this order."""
TOWARD = "toward"
"""Second input of a graph that takes targets: float32 (N, D); a row of zeros is the image itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`, typed.  Written once, when the package is made."""

    schema: int
    nemu: str
    """Version that wrote it."""
    created: str
    """UTC, ISO 8601."""
    embedding_id: str
    """Encoder, weights and kind of embedding.  Only embeddings with equal ids may be compared."""
    encoder: EncoderRecord
    masker: MaskerRecord
    input: InputRecord
    outputs: tuple[OutputRecord, ...]
    parity: dict[str, ParityRecord]
    """Figures of the gate, by name of the comparison; see `export.graph.gate`."""
    files: dict[str, str]
    """sha256 of every file that the package was made with, by its path inside the package."""
    training: TrainingRecord | None = None
    """The run that trained the masker; None if the build did not find the run's folder around the masker."""
    metrics: MetricsRecord | None = None
    """Quality of the masks at the build; None in a package of schema 1."""
    refused: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Precision that was tried → why the package has no graph of it; in older packages a sentence."""
    level: LevelRecord | None = None
    """What a level of the mask means; None in a package of schema 3, or if the build had too few images that
    training did not see."""
    target: TargetRecord | None = None
    """Quality of masks toward a target; None if the masker takes none, or if the build had too few images
    that training did not see."""
    left_out: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Engine that was asked for at the build → why there is none; in older packages a sentence."""

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON, as in the file, without the digest."""
        parity = {name: record.fields() for name, record in self.parity.items()}
        return {**dataclasses.asdict(self), "parity": parity}

    def to_json(self) -> str:
        """The text of `manifest.json`: the fields, and `digest`, the sha256 over them."""
        fields = self.fields()
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
        manifest = read(cls, _current(fields), source)
        if digest != _digest(fields):
            raise IntegrityError(
                f"{source} was changed after it was written",
                expected=f"fields whose sha256 is {digest}",
                cure="copy the package again, or build it again with nemu build",
            )
        return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """The sidecar of one engine: everything that decides whether the engine fits a device."""

    flavour: str
    """`rtx` or `tensorrt`: the library that built the engine and can load it."""
    version: str
    """Exact version of that library."""
    compute_capability: str
    """Such as `8.7`, or `portable`."""
    precision: str
    """A key of `runtime.package.parity.LIMITS`, as read back from the parsed network."""
    tensor_types: dict[str, int]
    """Type → number of the network's tensors that have it; the evidence for `precision`."""
    batch: tuple[int, int, int]
    """min, opt, max of the optimisation profile."""
    onnx: str
    """The package file that the engine was built from."""
    onnx_sha256: str
    package: str
    """`Package.hash` of the package that the engine belongs to."""
    flags: dict[str, Any]
    """Build settings that change the engine."""
    parity: ParityRecord
    """Figures of the gate on the device that built the engine, or `not_run`."""
    build_seconds: float
    sha256: str
    """Hash of the `.engine` file."""
    outputs: tuple[str, ...] = OUTPUTS
    """`("embedding",)` for an engine without a mask; a sidecar without this field has both outputs."""
    inputs: tuple[str, ...] = ("image",)
    """`("image", "toward")` for an engine that takes targets; a sidecar without this field takes none."""

    @property
    def embedding_only(self) -> bool:
        """Whether the engine gives no mask."""
        return self.outputs != OUTPUTS

    @property
    def takes_target(self) -> bool:
        """Whether every image needs a target."""
        return TOWARD in self.inputs

    def needs(self) -> str:
        """What a machine must have to load the engine, for people."""
        library = {"rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}.get(self.flavour, self.flavour)
        portable = self.compute_capability == "portable"
        gpu = "8.0 or newer" if portable else self.compute_capability
        return f"{library} {self.version} and an NVIDIA GPU of compute capability {gpu}"

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON; all of them, unlike `to_json`."""
        return {**dataclasses.asdict(self), "parity": self.parity.fields()}

    def to_json(self) -> str:
        """The text of the sidecar.

        `outputs` is omitted for engines with a mask, and `inputs` for engines without targets, so that their
        sidecars stay readable by older versions.
        """
        fields = self.fields()
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
    """Make the error for a file whose sha256 is not the recorded one."""
    return IntegrityError(
        f"{path} is not the file that was written (its sha256 differs)",
        expected="the bytes that the manifest or sidecar was made from",
        cure="copy the package again, or build it again with nemu build",
    )


def _digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _current(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop from an older manifest the figures of parity that are no longer read."""
    schema, parity = fields.get("schema"), fields.get("parity")
    if not isinstance(schema, int) or schema >= SCHEMA or not isinstance(parity, dict):
        return fields
    known = {name: known_figures(of) if isinstance(of, dict) else of for name, of in parity.items()}
    return {**fields, "parity": known}
