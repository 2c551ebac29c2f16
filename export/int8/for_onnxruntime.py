"""int8 for onnxruntime's CPU kernels: unsigned activations, signed weights, by onnxruntime's own tool.

Weights have seven bits.  Without VNNI, an x86 CPU multiplies unsigned by signed bytes with an instruction
that adds two products in 16 bits and saturates: 2 · 255 · 127 does not fit, 2 · 255 · 64 does.  So one file
gives the same values on every CPU; benchmarks/results/precision.json has the accuracy that the bit costs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph.session import copied
from export.graph.structure import Structure, commutes
from export.int8.calibrate import Ranges

_JOINING = ("Add", "Concat", "MaxPool", "AveragePool", "Relu", "Clip", "Resize")
"""Nodes between weighted layers that onnxruntime computes in int8."""


def quantize_cpu(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    heads: Collection[str],
    keep_float: Collection[str] = (),
    reduce_range: bool = True,
) -> onnx.ModelProto:
    """A copy of a float32 graph, int8 in the QDQ format, except for the weighted nodes named.

    Args:
        ranges: the interval of every activation.
        heads: names of weighted nodes whose weights stay in float.
        keep_float: names of weighted nodes that compute in float, with the nodes that their inputs come from.
        reduce_range: seven bits for weights; eight saturate on CPUs without VNNI.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    graph = Structure(model)
    before = set().union(*(graph.weighted_before(name) for name in keep_float))
    wanted = int8_nodes(model, {*heads, *keep_float, *before})
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns about every node that it skips
    try:
        quantizer = QDQQuantizer(
            copied(model),
            True,
            reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, data),
            wanted,
            [],
            sorted({n.op_type for n in model.graph.node if n.name in set(wanted)}),
            {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}},
        )
        quantizer.quantize_model()
    finally:
        logging.root.setLevel(level)
    _give_float_inputs(quantizer.model.model, keep_float)
    _resize_one_plane(quantizer.model.model, heads)
    quantizer.model.topological_sort()
    return quantizer.model.model


def int8_nodes(model: onnx.ModelProto, keep_float: Collection[str]) -> list[str]:
    """Names of the nodes to compute in int8: weighted ones, and what lies between such nodes only."""
    graph = Structure(model)
    weighted = {n.name for n in graph.weighted() if n.name not in keep_float}
    inside: set[str] = set()
    names = []
    for node in graph.nodes:
        joins = node.op_type in _JOINING and (node.op_type != "Resize" or commutes(node))
        whole = node.op_type != "Add" or len(graph.activations(node)) == 2  # and not the addition of a bias
        if node.name in weighted or (joins and whole and inside.issuperset(graph.activations(node))):
            names.append(node.name)
            inside.update(node.output)
    return names


def _give_float_inputs(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Give these layers the float input where other layers read its quantised copy.

    Otherwise onnxruntime quantises them: it quantises every convolution between pairs, with one scale for all
    its weights.
    """
    producer = {out: node for node in model.graph.node for out in node.output}
    for node in model.graph.node:
        back = producer.get(node.input[0]) if node.name in layers else None
        if back is not None and back.op_type == "DequantizeLinear" and back.input[0] in producer:
            node.input[0] = producer[back.input[0]].input[0]


def _resize_one_plane(model: onnx.ModelProto, heads: Collection[str]) -> None:
    """Remove the channel axis between a head of one channel and its Resize, and add it again after it.

    onnxruntime's float convolutions return blocks of 8 or 16 channels, which the next node keeps.  It would
    resize 7 or 15 empty planes with the mask, which takes a fiftieth of the time of an int8 ResNet-50.
    """
    producer = {out: node for node in model.graph.node for out in node.output}
    weights = {t.name: t for t in model.graph.initializer}
    for node in list(model.graph.node):
        head = producer.get(node.input[0]) if node.op_type == "Resize" else None
        if head is not None and head.name in heads and weights[head.input[1]].dims[0] == 1:
            plane, name = f"{node.name}_plane", f"{node.name}_channel"
            model.graph.initializer.append(numpy_helper.from_array(np.array([1]), name))
            squeeze = onnx.helper.make_node("Squeeze", [node.input[0], name], [plane], plane)
            back = f"{plane}_back"
            model.graph.node.extend(
                [squeeze, onnx.helper.make_node("Unsqueeze", [plane, name], [back], back)]
            )
            node.input[0] = back
