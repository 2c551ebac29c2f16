"""The records inside a manifest: what a package was made from, what was measured, figures of the gate."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.errors import SchemaError
from runtime.package.typed_json import json_object, read


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """The graph's input, and how an image becomes it (done by `runtime.media.geometry`)."""

    name: str
    """Name of the graph's input; uint8 (N, height, width, 3)."""
    height: int
    width: int
    mean: tuple[float, float, float]
    """Per-channel mean in [0, 1] units; applied inside the graph."""
    std: tuple[float, float, float]
    """Per-channel standard deviation in [0, 1] units; applied inside the graph."""
    resize: str
    """`crop`, `squash` or `letterbox`; see `runtime.media.geometry.Geometry`."""
    crop_pct: float
    """Share of the scaled image that the centre crop keeps (timm's meaning); 1 for letterbox."""
    interpolation: str
    """`bilinear` or `bicubic`."""
    channel_order: str = "rgb"


@dataclass(frozen=True, kw_only=True)
class OutputRecord:
    """One output of the graph."""

    name: str
    shape: tuple[str | int, ...]
    """Symbolic where an axis is free, e.g. `("N", 512)`; always float32."""
    meaning: str
    """Description of the output's values."""


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """The frozen encoder that the package was made from."""

    id: str
    """As given to `nemu train --encoder`, e.g. `timm/resnet50`."""
    fingerprint: str
    """sha256 of the weights."""
    embedding: str
    """Which vector the embedding is: `pooled`, `head` or `cls`; `own` for an encoder of the user's own."""
    l2_normalized: bool
    dimension: int
    license: str
    """The licence that the weights declare; `unknown` if they declare none."""


@dataclass(frozen=True, kw_only=True)
class MaskerRecord:
    """The masking network that was trained for the encoder."""

    architecture: str
    sha256: str
    """Hash of `masker.safetensors`."""
    objective: str
    config: dict[str, Any]
    """The training configuration, unchanged."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a training run ended: its `summary.json`."""

    steps: int
    """Steps of the whole run."""
    resumed_at: int
    """Step at which the last process started; 0 for a run that was not resumed."""
    loss: float
    """Mean over the last steps (`train.lightning_module.TAIL`) of the first process; also `distance` and
    `area`."""
    distance: float
    area: float
    processes: int
    images: int
    """Image files in the folder; the configuration says how many of them each step saw."""
    skipped: int
    """Files that could not be decoded; listed in the run's skipped.txt."""
    seconds: float
    """Duration of the last process's training loop."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package → version that trained the masker.  Empty in a run that did not record them."""
    area_weight: float | None = None
    """λ that the masks were trained with, given or measured; None for a ranking."""
    grey: float | None = None
    """Share of the pixels between 0.2 and 0.8, on images that training did not see if there are any."""
    fault: str | None = None
    """Why the masks show nothing; None if they show something."""
    follows: float | None = None
    """How well masks follow a target, 0 to 1 (`train.mixtures.follow`); None without targets."""

    @classmethod
    def from_json(cls, text: str, *, source: str) -> TrainingRecord:
        """Read and check; raises `SchemaError`."""
        return read(cls, json_object(text, source), source)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One measure over several images."""

    mean: float
    std: float
    """Standard deviation over the images, with n − 1."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


@dataclass(frozen=True, kw_only=True)
class MetricsRecord:
    """Quality of the masks at the build; measured by `export.package.measure`, explained there."""

    images: str
    """Which images, a code; packages of schema 5 and older hold a sentence."""
    n: int
    fidelity: Spread
    """Cosine of the embedding and of the embedding of what the mask keeps."""
    fidelity_moved: Spread
    """Fidelity with each mask moved to a random place: what any mask of this size and shape keeps."""
    fidelity_empty: Spread
    """Fidelity with nothing kept."""
    area: Spread
    """Mean of the mask."""
    degenerate: int
    """Images whose mask is nearly 0 or nearly 1 everywhere."""


@dataclass(frozen=True, kw_only=True)
class LevelCheck:
    """One check of the curve, on images that it was not fitted on."""

    asked: float
    """What was to be kept."""
    kept: float
    """Mean over the images and fills; also `moved` and `area`."""
    low: float
    """Lowest tenth of the images (each image's mean over the fills)."""
    high: float
    """Highest tenth of the images."""
    moved: float
    """What the same regions keep when they are moved to a random place."""
    area: float
    """Share of the pixels in the regions."""


@dataclass(frozen=True, kw_only=True)
class LevelRecord:
    """What a level of the mask means: fitted by `export.package.level`, read by `runtime.level`."""

    images: str
    """Which images, a code; packages of schema 5 and older hold a sentence."""
    n: int
    fills: tuple[str, ...]
    """What replaced the hidden pixels: what is kept is the mean over these fills."""
    share: tuple[float, ...]
    """Shares of regions, ascending from 0 to 1; see `runtime.level.share_above`."""
    kept: tuple[float, ...]
    """What a region of each share keeps on average, ascending: the centred cosine (`occlusion.kept`)."""
    checks: tuple[LevelCheck, ...]
    """Asked against kept: the curve of one half of the images is tested on the other half."""


@dataclass(frozen=True, kw_only=True)
class TargetMeasures:
    """Masks toward a target, on mixtures of two images by a region (`runtime.assess`).

    `shown`, `around` and `difference` are shares of the mask's sum that lie in the region.
    """

    shown: Spread
    """Share toward the image that the region shows."""
    around: Spread
    """Share toward the image around the region."""
    difference: Spread
    """`shown` minus `around`, mixture by mixture: 1 if masks follow the target, 0 if they ignore it."""
    present: Spread
    """Mean of the mask toward the image that the region shows."""
    absent: Spread
    """Mean of the mask toward an image that is not in the mixture."""
    nothing: float
    """Share of the mixtures whose mask toward an absent image is nearly 0 everywhere."""


@dataclass(frozen=True, kw_only=True)
class TargetRecord:
    """Quality of masks toward a target; measured by `export.package.measure`."""

    images: str
    """Which images were mixed, a code; packages of schema 5 and older hold a sentence."""
    n: int
    """Number of mixtures."""
    measured: TargetMeasures
    level: LevelRecord
    """What a level of such a mask means: `kept` is a share of the most that any region of the mask keeps."""


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
        plain = asdict(self)
        return {name: value for name, value in plain.items() if value is not None or name in undefined}


def parity_record(fields: dict[str, Any], *, source: str = "parity") -> ParityRecord:
    """Read figures from plain values, such as `Parity.to_json` gives.  Raises `SchemaError`."""
    return read(ParityRecord, fields, source)


def known_figures(fields: dict[str, Any]) -> dict[str, Any]:
    """The figures of a package of schema 5 or older that this version still reads, for `parity_record`."""
    known = {}
    for name in ParityRecord.__dataclass_fields__.keys() & fields.keys():
        with contextlib.suppress(SchemaError):
            parity_record({name: fields[name]})
            known[name] = fields[name]
    return known
