"""Figures of the parity gate as a package stores them: typed, and as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

from runtime.errors import SchemaError
from runtime.package.typed_json import read


@dataclass(frozen=True, kw_only=True)
class RangesRecord:
    """Largest magnitudes in a graph, against the end of fp16."""

    largest: dict[str, float | str]
    """Node → magnitude; `inf` for infinity.  Nodes beyond or near the limit, or the three largest."""
    limit: float
    tensors: int
    images: int


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """The images that int8's ranges were measured on."""

    images: str | None
    """Name of their folder, or a code for the reference images; older packages hold a sentence."""
    n: int


@dataclass(frozen=True, kw_only=True)
class SpeedRecord:
    """int8 against fp32 with onnxruntime, on the machine that built the package."""

    device: str
    """Processor and its number of logical CPUs."""
    fp32_ms: float
    int8_ms: float
    """Median milliseconds of one image; also `fp32_ms`."""
    times_faster: float
    times_faster_ci: tuple[float, float]
    """95 % interval of the median ratio."""
    pairs: int
    worth_it: bool


@dataclass(frozen=True, kw_only=True)
class ParityRecord:
    """Figures of one comparison, as a manifest or an engine's sidecar stores them.

    The measures are those of `Parity`.  What was not measured is None, and is left out of the JSON.
    """

    embedding_error: float | None = None
    centred_cosine: float | None = None
    neighbours: float | None = None
    mask_error: float | None = None
    """None for what gives no mask; also the next two."""
    mask_iou: float | None = None
    mask_rank_correlation: float | None = None
    n: int | None = None
    control_embedding_error: float | None = None
    control_failed: bool | None = None
    graph: str | None = None
    """Code of what the simplifier did, see `export.graph.from_torch.simplify`; older packages hold a
    sentence."""
    ranges: RangesRecord | None = None
    calibration: CalibrationRecord | None = None
    layers: int | None = None
    """Layers that int8 could compute."""
    layers_back_to_float: tuple[str, ...] | None = None
    """Names of those that int8 leaves in float."""
    speed: SpeedRecord | None = None
    target_effect: float | None = None
    """See `runtime.package.reference.Reference.target_effect`."""
    not_run: str | None = None
    """Why the gate was not run: `unavailable` (no library, driver or GPU) or `mismatch` (another GPU or
    version of the library); older sidecars hold a sentence."""

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON.  An undefined rank correlation of a mask is null."""
        undefined = {"mask_rank_correlation"} if self.mask_error is not None else set()
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if value is not None or name in undefined}


def parity_record(fields: dict[str, Any], *, source: str = "parity") -> ParityRecord:
    """Read figures from plain values, such as `Parity.to_json` gives.  Raises `SchemaError`."""
    return read(ParityRecord, fields, source)


def known_figures(fields: dict[str, Any]) -> dict[str, Any]:
    """The figures of a package of schema 5 or older that this version still reads, for `parity_record`."""
    known = {}
    for name in {field.name for field in dataclasses.fields(ParityRecord)} & fields.keys():
        with contextlib.suppress(SchemaError):
            parity_record({name: fields[name]})
            known[name] = fields[name]
    return known
