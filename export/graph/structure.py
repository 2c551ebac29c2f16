"""Find nodes of a graph by its structure, not by names: nodes with weights, heads, nodes that read the image,
and where activations meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_POOLING = ("ReduceMean", "ReduceMax", "ReduceSum", "GlobalAveragePool", "GlobalMaxPool")


class Structure:
    """Lookups over the nodes of one graph, which must not change while this is used."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {t.name: t for t in model.graph.initializer}
        self.producer = {out: node for node in self.nodes for out in node.output}
        self.outputs = [o.name for o in model.graph.output]

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The node's inputs that depend on the image."""
        return [name for name in node.input if name and name not in self.constants]

    def weighted(self) -> list[onnx.NodeProto]:
        """Nodes that multiply an activation by a constant weight: convolutions and matrix products."""
        return [n for n in self.nodes if n.op_type in WEIGHTED and n.input[1] in self.constants]

    def weight(self, node: onnx.NodeProto) -> np.ndarray:
        """The weight of a node of `weighted`."""
        return numpy_helper.to_array(self.constants[node.input[1]])

    def heads(self) -> set[str]:
        """Names of the last weighted nodes before each output: the mask's logits, a projection.

        The search goes back from each output through nodes with one activation.  It ends at a pooling: its
        input is a feature map, whose last convolution is not a head.
        """
        weighted = {n.name for n in self.weighted()}
        found = set()
        for name in self.outputs:
            node = self.producer.get(name)
            while node is not None and node.name not in weighted:
                inputs = self.activations(node)
                if len(inputs) != 1 or node.op_type in _POOLING:
                    break
                node = self.producer.get(inputs[0])
            if node is not None and node.name in weighted:
                found.add(node.name)
        return found

    def stems(self) -> set[str]:
        """Names of the weighted nodes with no weighted node before them."""
        behind: set[str] = set()  # tensors computed with a weighted node
        found = set()
        weighted = {n.name for n in self.weighted()}
        for node in self.nodes:
            after = any(name in behind for name in node.input)
            if node.name in weighted and not after:
                found.add(node.name)
            if after or node.name in weighted:
                behind.update(node.output)
        return found

    def weighted_before(self, name: str) -> set[str]:
        """Name of the weighted node that a node's input comes from: of two that are added, the later one.
        Empty if the input comes from the image."""
        weighted = {n.name for n in self.weighted()}
        order = {n.name: i for i, n in enumerate(self.nodes)}
        node = self.nodes[order[name]]
        while True:
            sources = [self.producer[t] for t in self.activations(node) if t in self.producer]
            if not sources:
                return set()
            node = max(sources, key=lambda source: order[source.name])
            if node.name in weighted:
                return {node.name}

    def depth(self, tensor: str) -> int:
        """The largest number of weighted nodes on a path from the image to a tensor."""
        if not hasattr(self, "_depth"):
            weighted = {n.name for n in self.weighted()}
            self._depth: dict[str, int] = {}
            for node in self.nodes:
                before = max((self._depth.get(name, 0) for name in node.input), default=0)
                self._depth.update(dict.fromkeys(node.output, before + (node.name in weighted)))
        return self._depth.get(tensor, 0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as plain values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that counts the output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attributes(node).get("transB") else 1
    return 1  # ConvTranspose without groups, MatMul with a matrix


def commutes(node: onnx.NodeProto) -> bool:
    """Whether the node only copies or picks values, so that it may be quantised before or after."""
    if node.op_type == "Resize":
        return attributes(node).get("mode", b"nearest") == b"nearest"
    return node.op_type in ("MaxPool", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def float_tensors(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the tensors computed in floating point, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for node in model.graph.node:
        for name in node.output:
            if types.get(name) == onnx.TensorProto.FLOAT:
                yield name
