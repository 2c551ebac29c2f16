"""The error of each int8 layer by itself, measured for all layers in one pass over some images."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph.session import Session, copied

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_OURS = "int8/"
"""Prefix of the names of nodes that are copied into the float graph."""


def losses(model: onnx.ModelProto, quantised: onnx.ModelProto, images: np.ndarray) -> dict[str, float]:
    """For each int8 layer, given float activations: mean square of its error / variance of its output.

    Args:
        model: the float32 graph.
        quantised: made from `model`, float32 except for int8; its nodes keep their names.
        images: uint8 (N, H, W, 3).
    """
    both, outputs = _beside(model, quantised)
    session = Session(both, as_written=True)
    square, spread = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    for image in images:
        exact = session(list(outputs.values()), image[None])
        found = session([_OURS + name for name in outputs.values()], image[None])
        for layer, a, b in zip(outputs, exact, found, strict=True):
            square[layer] += float(np.square(a - b).mean())
            spread[layer] += float(a.var())
    return {layer: square[layer] / max(spread[layer], 1e-12) for layer in outputs}


def _beside(model: onnx.ModelProto, quantised: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The float graph with a copy of each int8 layer; and layer → output of the original layer."""
    both = copied(model)
    first = {n.name: n.output[0] for n in model.graph.node}
    pairs = {name for n in quantised.graph.node if n.op_type in _PAIR for name in n.output}
    constants = {t.name for t in quantised.graph.initializer}
    weights = {n.output[0] for n in quantised.graph.node if n.op_type in _PAIR and n.input[0] in constants}
    ours = pairs | constants
    outputs = {}
    for node in quantised.graph.node:
        layer = len(node.input) > 1 and node.input[1] in weights and node.name in first
        if node.op_type not in _PAIR and not layer:
            continue
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = _OURS + node.name
        copy.input[:] = [_OURS + name if name in ours else name for name in node.input]
        copy.output[0] = _OURS + (node.output[0] if node.op_type in _PAIR else first[node.name])
        if node.op_type not in _PAIR:
            outputs[node.name] = first[node.name]
    for tensor in quantised.graph.initializer:
        constant = both.graph.initializer.add()
        constant.CopyFrom(tensor)
        constant.name = _OURS + tensor.name
    names = [name for output in outputs.values() for name in (output, _OURS + output)]
    both.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return both, outputs
