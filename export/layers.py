"""The layers of a parsed TensorRT network that do arithmetic with weights, and what they compute in."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx as onnx_library

from export.quantize import FLOAT_LAYERS
from runtime.errors import ExportError

PRECISIONS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
_WEIGHTED = (*_CONVOLUTIONS, "MATRIX_MULTIPLY", "EINSUM")
"""Names of the layer types that do the arithmetic; their output type is the engine's precision."""


class Layer(NamedTuple):
    """One such layer."""

    name: str
    kind: str
    dtype: str
    """Of its output; INT8 if activation and weight both come out of int8."""


def weighted_layers(trt: ModuleType, network: Any) -> list[Layer]:
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

    return [Layer(x.name, kinds[x.type], dtype(x)) for x in layers if x.type in kinds]


def check_precision(weighted: list[Layer], precision: str, onnx: Path) -> None:
    """Compare what the parsed network computes in with what was asked for.

    Every convolution must be of the asked type, but those that an int8 graph says it leaves alone.  A
    matrix product may be left in another (a head that is kept in float32 on purpose), but not all of them.
    """
    wanted = PRECISIONS[precision]
    kept = _float_layers(onnx) if precision == "int8" else set()
    other = [layer for layer in weighted if layer.dtype != wanted and layer.name not in kept]
    convolutions = [layer for layer in other if layer.kind in _CONVOLUTIONS]
    none = all(layer.dtype != wanted for layer in weighted)
    if not convolutions and not none:
        return
    shown = [f"{x.name}: {x.kind} in {x.dtype}" for x in convolutions or other or weighted]
    more = [f"… and {len(shown) - 20} more"] if len(shown) > 20 else []
    raise ExportError(
        f"{onnx.name} was to be {precision}, but "
        + ("no layer with weights is" if none else f"{len(convolutions)} convolution(s) are not")
        + "".join(f"\n    {line}" for line in [*shown[:20], *more]),
        expected=f"convolutions and matrix products in {wanted}",
        cure=f"give a graph of that precision (model.fp16.onnx for fp16), or ask for other than {precision}",
    )


def check_turing(weighted: list[Layer], onnx: Path) -> None:
    """Refuse float32 matrix products, which TensorRT-RTX 1.7 does not compile for Turing (measured)."""
    wide = [x.name for x in weighted if x.kind not in _CONVOLUTIONS and x.dtype == "FLOAT"]
    if wide:
        raise ExportError(
            f"{onnx.name} has {len(wide)} float32 matrix products, the first is {wide[0]}",
            expected="half precision: TensorRT-RTX compiles no float32 matrix product for Turing (7.5)",
            cure="--precision fp16, or leave Turing out: --target rtx-portable",
        )


def _float_layers(path: Path) -> set[str]:
    """The layers that an int8 graph says it leaves in float, see `export.quantize`."""
    model = onnx_library.load(str(path), load_external_data=False)
    said = {p.key: p.value for p in model.metadata_props}
    return set(json.loads(said.get(FLOAT_LAYERS, "[]")))
