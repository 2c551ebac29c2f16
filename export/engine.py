"""ONNX → TensorRT engine, every flavour, on one strongly typed path.

The same calls serve TensorRT 10.0 to 11.4 and TensorRT-RTX: precision is in the graph, the network is
strongly typed, names are used instead of numbers.  What was asked for is not believed: types and names
are read back from the parsed network before the build.

TensorRT-RTX builds on a machine without a GPU.  The classic library needs the device it builds for.
"""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx as onnx_library

from export.progress import Progress, interruptible, monitor
from export.quantize import FLOAT_LAYERS
from runtime.backends import cuda
from runtime.backends.tensorrt_library import FLAVOURS, Log, Validity, library, logger, validity
from runtime.errors import ExportError, InputError

__all__ = ["FLAVOURS", "BuiltEngine", "Validity", "build", "validity"]

Signature = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype, shape); -1 where an axis is free."""

_INPUTS = {"image": "UINT8"}
_OUTPUTS = {"embedding": "FLOAT", "mask": "FLOAT"}
_PRECISIONS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
_WEIGHTED = (*_CONVOLUTIONS, "MATRIX_MULTIPLY", "EINSUM")
"""Names of the layer types that do the arithmetic; their output type is the engine's precision."""


class _Layer(NamedTuple):
    name: str
    kind: str
    dtype: str
    """Of its output; INT8 if activation and weight both come out of int8."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A plan and everything that decides where it can run; the sidecar is made from it."""

    plan: bytes
    """The serialised engine, nothing prepended."""
    flavour: str
    version: str
    """Exact version of the library that built it."""
    compute_capability: str
    """Such as `8.7`; `portable` for RTX, whose plan is finished on the GPU that loads it."""
    precision: str
    """As read back from the parsed network."""
    tensor_types: dict[str, int]
    """How many of the network's tensors have which type."""
    inputs: Signature
    outputs: Signature
    batch: tuple[int, int, int]
    """min, opt, max of the optimisation profile."""
    flags: dict[str, Any]
    """Build settings that change the engine."""
    build_seconds: float


def build(
    onnx: Path,
    *,
    flavour: str,
    batch: tuple[int, int, int],
    precision: str,
    workspace_bytes: int | None = None,
    progress: bool = True,
) -> BuiltEngine:
    """Compile an explicitly typed graph.

    Args:
        onnx: input `image` uint8 (N, H, W, 3), outputs `embedding` and `mask` float32; external
            weights beside it are found by their path.
        flavour: one of `FLAVOURS`.
        batch: min, opt, max of N.  The engine takes every N between, and is fastest at opt.
        precision: of `_PRECISIONS`, which the graph must already be; it is checked, not converted.
        workspace_bytes: limit of the scratch memory; None leaves it to the library.
        progress: show a bar on stderr.

    Raises:
        InputError: an option that cannot be used.
        BackendUnavailable: the flavour's library, or the GPU that it builds on, is not here.
        ExportError: the graph is refused, has other names or types than asked for, or does not build.
        KeyboardInterrupt: Ctrl-C, after the build was stopped.
    """
    _check_options(onnx, batch, precision)
    trt = library(flavour)
    # Classic TensorRT times its kernels on the device: probe it before a builder needs it.
    capability = "portable" if flavour == "rtx" else cuda.device().compute_capability
    log = logger(trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx, log)
    inputs, outputs = _signature(network, onnx)
    weighted = _weighted_layers(trt, network)
    _check_precision(weighted, precision, onnx)
    config = _configure(trt, builder, inputs["image"][1], batch, workspace_bytes, onnx)

    started = time.monotonic()
    plan = _compile(trt, builder, network, config, log, show=progress)
    return BuiltEngine(
        plan=plan,
        flavour=flavour,
        version=str(trt.__version__),
        compute_capability=capability,
        precision=precision,
        tensor_types=_tensor_types(network),
        inputs=inputs,
        outputs=outputs,
        batch=batch,
        flags=_flags(trt, config, weighted, workspace_bytes, log),
        build_seconds=time.monotonic() - started,
    )


def _check_options(onnx: Path, batch: tuple[int, int, int], precision: str) -> None:
    low, best, high = batch
    if not 1 <= low <= best <= high:
        raise InputError(
            f"batch {low}:{best}:{high}",
            expected="min:opt:max with 1 <= min <= opt <= max",
            cure="for example --batch 1:1:8",
        )
    if precision not in _PRECISIONS:
        raise InputError(
            f"precision {precision!r}",
            expected="one of " + ", ".join(_PRECISIONS),
            cure="choose one; the ONNX file must hold that precision",
        )
    if not onnx.is_file():
        raise InputError(
            f"{onnx} is not a file",
            expected="an ONNX file",
            cure="export it first: python -m export.build_engine",
        )


def _parse(trt: ModuleType, network: Any, onnx: Path, log: Log) -> None:
    """Fill `network` from the file, or raise with everything that the parser says."""
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node()} {error.node_name()} ({error.node_operator()})"
        reasons.append(f"{where}: {error.desc()}".replace("\n", "\n      "))
    raise ExportError(
        f"TensorRT's parser refuses {onnx}:\n    " + "\n    ".join(reasons or [log.text()]),
        expected="a graph of operators and types that it knows",
        cure="change the named nodes at export: for uint8 images cast before transposing, no antialiased"
        " Resize, equal types on both inputs of an addition",
    )


def _signature(network: Any, onnx: Path) -> tuple[Signature, Signature]:
    """Names, types and shapes of inputs and outputs, or `ExportError` if they break the contract."""
    inputs = _describe(network.get_input(i) for i in range(network.num_inputs))
    outputs = _describe(network.get_output(i) for i in range(network.num_outputs))
    for kind, found, wanted in (("inputs", inputs, _INPUTS), ("outputs", outputs, _OUTPUTS)):
        types = {name: dtype for name, (dtype, _) in found.items()}
        if types != wanted:
            raise ExportError(
                f"{onnx} has the {kind} {types}",
                expected=f"exactly {wanted}",
                cure="export it with export.fuse: uint8 image in, float32 embedding and mask out",
            )
    return inputs, outputs


def _describe(tensors: Iterator[Any]) -> Signature:
    return {t.name: (t.dtype.name, tuple(int(side) for side in t.shape)) for t in tensors}


def _weighted_layers(trt: ModuleType, network: Any) -> list[_Layer]:
    """Every layer that does arithmetic with weights."""
    kinds = {getattr(trt.LayerType, name): name for name in _WEIGHTED}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producer = {x.get_output(i).name: x for x in layers for i in range(x.num_outputs)}

    def from_int8(tensor: Any) -> bool:
        source: Any = producer.get(tensor.name)
        while source is not None and source.type == trt.LayerType.SHUFFLE:
            source = producer.get(source.get_input(0).name)
        dequantized = source is not None and source.type == trt.LayerType.DEQUANTIZE
        return dequantized and source.get_input(0).dtype == trt.DataType.INT8

    def dtype(layer: Any) -> str:
        both = layer.num_inputs > 1 and all(from_int8(layer.get_input(i)) for i in range(2))
        return "INT8" if both else str(layer.get_output(0).dtype.name)

    return [_Layer(x.name, kinds[x.type], dtype(x)) for x in layers if x.type in kinds]


def _check_precision(weighted: list[_Layer], precision: str, onnx: Path) -> None:
    """Compare what the parsed network computes in with what was asked for.

    Every convolution must be of the asked type, but those that an int8 graph says it leaves alone.  A
    matrix product may be left in another (a head that is kept in float32 on purpose), but not all of them.
    """
    wanted = _PRECISIONS[precision]
    kept = _float_layers(onnx) if precision == "int8" else set()
    other = [layer for layer in weighted if layer.dtype != wanted and layer.name not in kept]
    convolutions = [layer for layer in other if layer.kind in _CONVOLUTIONS]
    none = all(layer.dtype != wanted for layer in weighted)
    if not convolutions and not none:
        return
    shown = [f"{x.name}: {x.kind} in {x.dtype}" for x in convolutions or other or weighted]
    more = [f"… and {len(shown) - 20} more"] if len(shown) > 20 else []
    raise ExportError(
        f"{onnx} was to be {precision}, but "
        + ("no layer with weights is" if none else f"{len(convolutions)} convolution(s) are not")
        + "".join(f"\n    {line}" for line in [*shown[:20], *more]),
        expected=f"convolutions and matrix products in {wanted}",
        cure=f"give a graph of that precision (model.fp16.onnx for fp16), or ask for other than {precision}",
    )


def _float_layers(path: Path) -> set[str]:
    """The layers that an int8 graph says it leaves in float, see `export.quantize`."""
    model = onnx_library.load(str(path), load_external_data=False)
    said = {p.key: p.value for p in model.metadata_props}
    return set(json.loads(said.get(FLOAT_LAYERS, "[]")))


def _tensor_types(network: Any) -> dict[str, int]:
    """How many tensors of the network have which type: inputs, and outputs of every layer."""
    types = [network.get_input(i).dtype.name for i in range(network.num_inputs)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types += [layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
    return dict(sorted(collections.Counter(types).items()))


def _configure(
    trt: ModuleType,
    builder: Any,
    shape: tuple[int, ...],
    batch: tuple[int, int, int],
    workspace_bytes: int | None,
    onnx: Path,
) -> Any:
    """A builder configuration with one optimisation profile over the batch axis."""
    free = shape[0] == -1
    if -1 in shape[1:] or not (free or set(batch) == {shape[0]}):
        raise ExportError(
            f"{onnx} takes images of shape {shape}, and the batch was to be {':'.join(map(str, batch))}",
            expected="a free first axis (-1) and fixed others, or a batch equal to the fixed first axis",
            cure="export with a dynamic batch axis and a fixed image size",
        )
    config = builder.create_builder_config()
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((n, *shape[1:]) for n in batch))
    config.add_optimization_profile(profile)
    return config


def _flags(
    trt: ModuleType,
    config: Any,
    weighted: list[_Layer],
    workspace_bytes: int | None,
    log: Log,
) -> dict[str, Any]:
    """What changes the engine, or tells how it came out, for the sidecar."""
    return {
        "strongly_typed": True,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),  # on by default; speaks of fp32 layers only
        "optimization_level": int(config.builder_optimization_level),
        "workspace_bytes": workspace_bytes,
        "weighted_layers": dict(collections.Counter(layer.dtype for layer in weighted)),
        "warnings": list(log.lines),
    }


def _compile(trt: ModuleType, builder: Any, network: Any, config: Any, log: Log, *, show: bool) -> bytes:
    """The plan.  Ctrl-C stops the build at its next step."""
    cancelled = threading.Event()
    with Progress(show=show, cancelled=cancelled) as bar:
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = monitor(trt, bar)
        plan = interruptible(lambda: builder.build_serialized_network(network, config), cancelled)
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} could not build the engine:\n    {log.text()}",
            expected="a serialised engine",
            cure="the lines above name the layer or the resource: a larger workspace, or a smaller --batch",
        )
    return bytes(plan)
