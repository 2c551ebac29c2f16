"""int8 for TensorRT: write quantise–dequantise pairs into a graph, by its structure.

Every quantised layer has int8 inputs: its activation with one symmetric scale, its weight with one scale for
each output channel, zero points 0.  Outputs are not quantised, so that the node after a convolution can fuse
into it.  Where a convolution's result is added to another activation, the other one is quantised; otherwise
TensorRT would run the addition as a layer of its own.  All inputs of a concatenation have one common scale,
and so have both sides of a node that only copies or picks values.

Scales have the graph's own type.  In the half graph they are float16, so that everything around the int8
layers is half; with float32 scales it would be float32.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.session import copied
from export.graph.structure import Structure, commutes, output_axis
from export.int8.calibrate import Ranges

FLOAT_LAYERS = "nemu.float_layers"
"""Metadata key: JSON list of the weighted nodes left in float; `export.engine.builder` checks TensorRT
against it."""

_Edge = tuple[str, int]
"""(name of a node, which of its inputs)."""


def insert_qdq(model: onnx.ModelProto, ranges: Ranges, *, keep_float: Collection[str]) -> onnx.ModelProto:
    """A copy of `model` whose weighted layers are int8, except those named.

    Args:
        model: float16 or float32 inside, opset 19 or newer if float16 (older ones have no float16 scales).
        ranges: of every activation that may be quantised.
        keep_float: names of weighted nodes to leave alone.
    """
    graph = Structure(model)
    layers = [n for n in graph.weighted() if n.name not in keep_float and graph.weight(n).ndim >= 2]
    edges = dict(_edges(graph, {n.name for n in layers}))
    scales = _scales(graph, edges.values(), ranges)
    writer = _Writer(model)
    for node in layers:
        writer.weight(node, graph.weight(node))
    for edge, tensor in edges.items():
        writer.activation(edge, tensor, scales[tensor], graph.weight(layers[0]).dtype)
    kept = sorted({n.name for n in graph.weighted()} - {n.name for n in layers})
    return writer.finish(kept)


def _edges(graph: Structure, layers: Collection[str]) -> Iterator[tuple[_Edge, str]]:
    """Where activations are quantised: (node, input) and the tensor at that input."""
    pending = []
    for node in graph.nodes:
        if node.name in layers:
            pending.append((node, 0))
        elif node.op_type == "Add":
            pending += [(node, index) for index in _identity(graph, node, layers)]
    while pending:
        node, index = pending.pop()
        tensor = node.input[index]
        yield (node.name, index), tensor
        source = graph.producer.get(tensor)
        if source is not None and source.op_type == "Concat":
            pending += [(source, i) for i, name in enumerate(source.input) if name not in graph.constants]


def _identity(graph: Structure, add: onnx.NodeProto, layers: Collection[str]) -> list[int]:
    """Which input of an addition is the skip: not the convolution's; of two, the one with fewer before it."""
    if len(graph.activations(add)) != 2:
        return []
    sources = [graph.producer.get(name) for name in add.input]
    direct = [s is not None and s.name in layers and s.op_type.startswith("Conv") for s in sources]
    if not any(direct):
        return []
    if all(direct):
        return [int(graph.depth(add.input[1]) < graph.depth(add.input[0]))]
    return [direct.index(False)]


def _scales(graph: Structure, tensors: Collection[str], ranges: Ranges) -> dict[str, float]:
    """The scale of each tensor; one for all that are concatenated or are copies of each other."""
    group = {name: name for name in tensors}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for name in group:
        source = graph.producer.get(name)
        if source is not None and (source.op_type == "Concat" or commutes(source)):
            for other in source.input:
                if other in group:
                    group[root(other)] = root(name)
    largest: dict[str, float] = {}
    for name in group:
        largest[root(name)] = max(largest.get(root(name), 0.0), *(abs(end) for end in ranges[name]))
    return {name: largest[root(name)] / 127 for name in group}


class _Writer:
    """Writes pairs into a copy of the graph, each before the first node that needs it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copied(model)
        self.nodes = {n.name: n for n in self.model.graph.node}
        self.written: set[str] = set()
        self.order = {n.name: i for i, n in enumerate(model.graph.node)}
        self.first: dict[str, tuple[int, list[onnx.NodeProto]]] = {}

    def weight(self, node: onnx.NodeProto, values: np.ndarray) -> None:
        """int8 weights with one scale a channel, dequantised in front of the node."""
        name, axis = node.input[1], output_axis(node)
        wide = values.astype(np.float32)
        others = tuple(i for i in range(wide.ndim) if i != axis)
        scale = _rounded(np.abs(wide).max(axis=others) / 127, values.dtype)
        shape = [-1 if i == axis else 1 for i in range(wide.ndim)]
        steps = np.round(wide / scale.astype(np.float32).reshape(shape)).clip(-127, 127).astype(np.int8)
        self._constant(f"{name}_int8", steps)
        self._constant(f"{name}_scale", scale)
        self._constant(f"{name}_zero", np.zeros(len(scale), np.int8))
        inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
        pair = helper.make_node(
            "DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_dequantize", axis=axis
        )
        self._insert(node.name, f"{name}_dequantized", [pair])
        self.nodes[node.name].input[1] = f"{name}_dequantized"

    def activation(self, edge: _Edge, tensor: str, scale: float, dtype: np.dtype[Any]) -> None:
        """A pair on one input of a node; all nodes that take the tensor in int8 share the pair."""
        node, index = edge
        constants = [f"{tensor}_scale", f"{tensor}_zero"]
        self._constant(constants[0], _rounded(np.array(scale, np.float32), dtype))
        self._constant(constants[1], np.zeros((), np.int8))
        whole, back = f"{tensor}_quantized", f"{tensor}_dequantized"
        pair = [
            helper.make_node("QuantizeLinear", [tensor, *constants], [whole], f"{tensor}_quantize"),
            helper.make_node("DequantizeLinear", [whole, *constants], [back], f"{tensor}_dequantize"),
        ]
        self._insert(node, back, pair)
        self.nodes[node].input[index] = back

    def finish(self, kept: list[str]) -> onnx.ModelProto:
        """The graph in the order of computation, without unused weights."""
        inserts: dict[int, list[onnx.NodeProto]] = {}
        for position, nodes in self.first.values():
            inserts.setdefault(position, []).extend(nodes)
        graph = self.model.graph
        ordered = [n for i, node in enumerate(graph.node) for n in (*inserts.get(i, ()), node)]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
        del graph.node[:]
        graph.node.extend(copies)
        used = {name for node in graph.node for name in node.input}
        initializers = [t for t in graph.initializer if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend(initializers)
        del graph.value_info[:]
        helper.set_model_props(self.model, {FLOAT_LAYERS: json.dumps(kept)})
        return self.model

    def _insert(self, node: str, output: str, nodes: list[onnx.NodeProto]) -> None:
        position = self.order[node]
        if output not in self.first or position < self.first[output][0]:
            self.first[output] = (position, nodes)

    def _constant(self, name: str, values: np.ndarray) -> None:
        if name not in self.written:
            self.written.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def _rounded(scale: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Scales in the graph's type; none is subnormal, as division by it would be imprecise."""
    return np.maximum(scale, np.finfo(dtype).tiny).astype(dtype)
