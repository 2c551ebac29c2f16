"""Round int8 weights so that the rounding errors of a layer compensate each other.

Weights rounded one by one lose most where sums are short, as in a depthwise convolution: nine errors do not
average out, and their sum shifts every pixel alike.  Here a layer's weights are rounded in turn.  The error
of each is compensated by the weights after it and finally by the bias, so that the output on real images
changes least (the order of GPTQ, Frantar et al., 2023).  The bias counts as the weight of an input 1, and is
not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph.session import Session, with_outputs
from export.graph.structure import Structure, attributes

_PLACES = 64  # positions of each image at which a layer's inputs are sampled
_MOST = 1536  # terms of a sum; in longer sums errors average out, and only their mean is compensated
_DAMPING = 1e-2  # added to each second moment, as a share of their mean
_BLOCK = 64  # weights rounded before their errors are carried on to all others


@dataclass
class _Layer:
    """A weighted node of the float graph, and its inputs on real images."""

    node: onnx.NodeProto
    weight: np.ndarray
    """float32 (groups, outputs, terms)."""
    kernel: tuple[int, ...]
    """Height and width; empty for a product of matrices."""
    moments: np.ndarray
    """float32 (groups, terms + 1, terms + 1): sums of products of the terms and of 1; only the last row if
    there are more than _MOST terms."""


class Rounding:
    """Second moments of the inputs of every weighted layer, and the rounding that follows from them.

    Args:
        model: a float32 graph.
        images: uint8 (N, H, W, 3).
    """

    def __init__(self, model: onnx.ModelProto, images: np.ndarray) -> None:
        graph = Structure(model)
        self._layers = {n.name: _layer(n, graph.weight(n)) for n in graph.weighted() if _known(n, graph)}
        self._rounded: dict[tuple[str, bytes], np.ndarray] = {}
        inputs = list(dict.fromkeys(layer.node.input[0] for layer in self._layers.values()))
        session, rng = Session(with_outputs(model, inputs)), np.random.default_rng(0)
        for image in images:
            values = dict(zip(inputs, session(inputs, image[None]), strict=True))
            for layer in self._layers.values():
                rows = _rows(layer, values[layer.node.input[0]], rng)
                left = rows if layer.moments.shape[1] > 1 else rows[..., -1:]
                layer.moments += left.transpose(1, 2, 0) @ rows.transpose(1, 0, 2)

    def apply(self, quantised: onnx.ModelProto) -> None:
        """Round the int8 weights of a graph anew and correct its biases, in place.

        Args:
            quantised: made from the float graph: its nodes keep their names, its int8 weights are constants
                under a DequantizeLinear.
        """
        graph = Structure(quantised)
        done: set[str] = set()
        for node in graph.nodes:
            whole = graph.producer.get(node.input[1]) if len(node.input) > 1 else None
            if node.name in self._layers and whole is not None and whole.op_type == "DequantizeLinear":
                layer, tensor = self._layers[node.name], graph.constants[whole.input[0]]
                scale = numpy_helper.to_array(graph.constants[whole.input[1]])
                steps = _terms(layer.node, numpy_helper.to_array(tensor)).astype(np.float64)
                scales = np.broadcast_to(scale.reshape(-1).astype(np.float64), steps[..., 0].size)
                scales = scales.reshape(steps.shape[:2])
                if tensor.name not in done and layer.moments.shape[1] > 1:  # else weights stay as they are
                    steps = self._round(layer, steps, scales)
                    _write(tensor, layer.node, steps)
                done.add(tensor.name)
                if len(node.input) > 2:
                    _correct_bias(quantised, graph, node, _bias_for(layer, steps * scales[..., None]))

    def _round(self, layer: _Layer, steps: np.ndarray, scales: np.ndarray) -> np.ndarray:
        limit = 64 if np.abs(steps).max() <= 64 else 127
        key = layer.node.name, scales.tobytes() + bytes([limit])
        if key not in self._rounded:
            self._rounded[key] = _rounded(layer, scales, limit)
        return self._rounded[key]


def _known(node: onnx.NodeProto, graph: Structure) -> bool:
    weight = graph.weight(node)
    return (
        weight.ndim == 4 if node.op_type == "Conv" else node.op_type != "ConvTranspose" and weight.ndim == 2
    )


def _layer(node: onnx.NodeProto, weight: np.ndarray) -> _Layer:
    terms = _terms(node, weight)
    groups, _, n = terms.shape
    moments = np.zeros((groups, n + 1 if n <= _MOST else 1, n + 1), np.float32)
    return _Layer(node, terms, weight.shape[2:], moments)


def _terms(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """A weight as (groups, outputs of a group, terms of a sum)."""
    if node.op_type == "Conv":
        groups = attributes(node).get("group", 1)
        return weight.reshape(groups, len(weight) // groups, -1)
    return (weight if attributes(node).get("transB") else weight.T)[None]


def _write(tensor: onnx.TensorProto, node: onnx.NodeProto, steps: np.ndarray) -> None:
    """The inverse of `_terms`, into a constant."""
    flat = node.op_type == "Conv" or attributes(node).get("transB")
    values = steps if flat else steps[0].T
    values = values.reshape(tuple(tensor.dims)).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _rows(layer: _Layer, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The terms of a layer's sums at some positions of one image: float32 (places, groups, terms + 1)."""
    if layer.kernel:
        rows = _patches(layer, x[0], rng)
    else:
        rows = x.reshape(-1, 1, x.shape[-1])
        rows = rows[rng.permutation(len(rows))[:_PLACES]]
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1), np.float32)], axis=2)


def _patches(layer: _Layer, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The inputs of a convolution on (C, H, W) at some positions: (places, groups, terms)."""
    a = attributes(layer.node)
    top, left, bottom, right = a.get("pads", [0] * 4)
    strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel, dilations, strict=True)]
    high, wide = ((x.shape[i + 1] - spans[i]) // strides[i] + 1 for i in (0, 1))
    places = rng.permutation(high * wide)[:_PLACES]
    ys = (places // wide * strides[0])[:, None] + np.arange(layer.kernel[0]) * dilations[0]
    xs = (places % wide * strides[1])[:, None] + np.arange(layer.kernel[1]) * dilations[1]
    patches = x[:, ys[:, :, None], xs[:, None, :]].transpose(1, 0, 2, 3)
    return patches.reshape(len(places), len(layer.weight), -1)


def _rounded(layer: _Layer, scales: np.ndarray, limit: int) -> np.ndarray:
    """Whole steps, float64 (groups, outputs, terms), each of at most `limit`."""
    terms = layer.weight.shape[2]
    moments = layer.moments.astype(np.float64)
    each = np.arange(terms)
    moments[:, each, each] += _DAMPING * moments[:, each, each].mean(axis=1, keepdims=True) + 1e-9
    carry = np.linalg.cholesky(np.linalg.inv(moments)).transpose(0, 2, 1)
    rest = layer.weight.astype(np.float64)
    steps = np.empty_like(rest)
    for start in range(0, terms, _BLOCK):
        stop = min(start + _BLOCK, terms)
        lost = np.empty((*rest.shape[:2], stop - start))
        for i in range(start, stop):
            steps[..., i] = np.clip(np.round(rest[..., i] / scales), -limit, limit)
            lost[..., i - start] = (rest[..., i] - steps[..., i] * scales) / carry[:, None, i, i]
            rest[..., i + 1 : stop] -= lost[..., i - start, None] * carry[:, None, i, i + 1 : stop]
        rest[..., stop:] -= lost @ carry[:, start:stop, stop:terms]
    return steps


def _bias_for(layer: _Layer, weight: np.ndarray) -> np.ndarray:
    """What to add to the bias so that the mean output does not change: float64 (outputs,)."""
    mean = layer.moments[:, -1, :-1].astype(np.float64) / layer.moments[:, -1, -1:]
    return ((layer.weight - weight) @ mean[..., None]).reshape(-1)


def _correct_bias(model: onnx.ModelProto, graph: Structure, node: onnx.NodeProto, gain: np.ndarray) -> None:
    """Add to a node's bias, which is a float constant, or int32 under a DequantizeLinear."""
    whole = graph.producer.get(node.input[2])
    if whole is not None:
        scale = numpy_helper.to_array(graph.constants[whole.input[1]]).astype(np.float64)
        tensor, gain = graph.constants[whole.input[0]], np.round(gain / scale)
        values = numpy_helper.to_array(tensor) + gain
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.int32), tensor.name))
        return
    values = numpy_helper.to_array(graph.constants[node.input[2]])
    node.input[2] = f"{node.name}_corrected_bias"  # the old one may have other users
    corrected = (values + gain).astype(values.dtype)
    model.graph.initializer.append(numpy_helper.from_array(corrected, node.input[2]))
