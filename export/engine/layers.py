"""The layers of a parsed TensorRT network that do arithmetic with weights, and their types."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx as onnx_library

from export.graph.refusals import refusal
from export.int8.for_tensorrt import FLOAT_LAYERS
from runtime.errors import ExportError

PRECISIONS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
_WEIGHTED = (*_CONVOLUTIONS, "MATRIX_MULTIPLY", "EINSUM")
"""Layer types that do arithmetic with weights; their output type is the engine's precision."""
_SHOWN = 20
"""At most this many layers are named."""


class Layer(NamedTuple):
    """A layer that does arithmetic with weights."""

    name: str
    kind: str
    dtype: str
    """Type of its output; INT8 if activation and weight are both dequantised from int8."""


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
    """Compare the types of the parsed network with the precision that was asked for.

    Every convolution must be of that type, except those that an int8 graph lists as left in float.  Single
    matrix products may have another type (a head that is kept in float32 on purpose), but not all of them.

    Raises:
        ExportError: naming up to 20 layers of another type.
    """
    wanted = PRECISIONS[precision]
    kept = _float_layers(onnx) if precision == "int8" else set()
    other = [layer for layer in weighted if layer.dtype != wanted and layer.name not in kept]
    convolutions = [layer for layer in other if layer.kind in _CONVOLUTIONS]
    none = all(layer.dtype != wanted for layer in weighted)
    if convolutions or none:
        raise _other_type(convolutions or other or weighted, len(convolutions), none, precision, onnx)


def _other_type(
    layers: list[Layer], convolutions: int, none: bool, precision: str, onnx: Path
) -> ExportError:
    """The error for layers of another type than asked for."""
    shown = [f"{x.name}: {x.kind} in {x.dtype}" for x in layers]
    more = [f"… and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return refusal(
        ExportError,
        "layers",
        graph=onnx.name,
        precision=precision,
        none=none,
        convolutions=convolutions,
        layers=[*shown[:_SHOWN], *more],
        expected=f"convolutions and matrix products in {PRECISIONS[precision]}",
        cure=f"give a graph of that precision (model.fp16.onnx for fp16), or ask for other than {precision}",
    )


def check_turing(weighted: list[Layer], onnx: Path) -> None:
    """Refuse float32 matrix products, which TensorRT-RTX 1.7 does not compile for Turing (measured)."""
    wide = [x.name for x in weighted if x.kind not in _CONVOLUTIONS and x.dtype == "FLOAT"]
    if wide:
        raise refusal(
            ExportError,
            "turing",
            graph=onnx.name,
            n=len(wide),
            first=wide[0],
            expected="half precision: TensorRT-RTX compiles no float32 matrix product for Turing (7.5)",
            cure="--precision fp16, or leave Turing out: --target rtx-portable",
        )


def _float_layers(path: Path) -> set[str]:
    """The layers that an int8 graph lists as left in float, see `export.int8.for_tensorrt`."""
    model = onnx_library.load(str(path), load_external_data=False)
    said = {p.key: p.value for p in model.metadata_props}
    return set(json.loads(said.get(FLOAT_LAYERS, "[]")))
