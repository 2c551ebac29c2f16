"""Finders for `export.graph.rules`: each returns the nodes of a graph that break one rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.graph.structure import attributes
from export.targets import Target, can

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "MatMul", "Gemm", "Conv", "Concat")

FIRST_KNOWN = {
    "BlackmanWindow": (10, 4),
    "HammingWindow": (10, 4),
    "HannWindow": (10, 4),
    "STFT": (10, 5),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),  # not in the list of 10.15; measured to parse with RTX 1.7.1
}
"""Operators that only later parsers of TensorRT 10 know, and since which version."""

_UNKNOWN = """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im
    Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial Optional OptionalGetElement OptionalHasElement
    QLinearConv QLinearMatMul SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SequenceMap SplitToSequence Unique
"""
UNKNOWN = frozenset(_UNKNOWN.split())
"""Operators that the parsers' lists, up to 10.15, name as not supported."""


class Graph:
    """The nodes of a model and the types of its tensors, as far as they can be inferred; reads no weights."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.functions = {f.name for f in model.functions}
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
                self.constants[node.output[0]] = node.attribute[0].t
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = (*graph.input, *graph.output, *graph.value_info)
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}

    def inputs(self, node: NodeProto) -> list[int]:
        """Types of the node's inputs that are known."""
        return [self.types[name] for name in node.input if self.types.get(name)]

    def is_zero(self, name: str) -> bool:
        """Whether a constant is all zeros; assumed for one whose values lie in the weights' file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return True
        return not numpy_helper.to_array(tensor).any()


def operators(*kinds: str) -> Callable[[Graph, Target], Iterator[NodeProto]]:
    """Every node of these kinds."""

    def find(graph: Graph, target: Target) -> Iterator[NodeProto]:
        yield from (n for n in graph.nodes if n.op_type in kinds)

    return find


def layer_norm_in_pieces(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """The mean of (x − mean x)², a variance: a LayerNorm in pieces has one, an RMSNorm has none."""
    means = {n.output[0] for n in graph.nodes if n.op_type == "ReduceMean"}
    deviations = {n.output[0] for n in graph.nodes if n.op_type == "Sub" and set(n.input) & means}
    squares = {
        n.output[0]
        for n in graph.nodes
        if (n.op_type == "Pow" and n.input[0] in deviations)
        or (n.op_type == "Mul" and n.input[0] == n.input[1] and n.input[0] in deviations)
    }
    yield from (n for n in graph.nodes if n.op_type == "ReduceMean" and n.input[0] in squares)


def antialiased_resize(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """`Resize` with antialias=1."""
    yield from (n for n in graph.nodes if n.op_type == "Resize" and attributes(n).get("antialias"))


def moved_uint8(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Every node that takes uint8, except Cast, Shape and quantisation."""
    for node in graph.nodes:
        if node.op_type not in ("Cast", "Shape", *_QUANTISING) and TensorProto.UINT8 in graph.inputs(node):
            yield node


def unsigned_int8(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Quantisation with an unsigned type or a zero point that is not zero."""
    for node in graph.nodes:
        if node.op_type in _QUANTISING and len(node.input) > 2:
            zero = node.input[2]
            if graph.types.get(zero) == TensorProto.UINT8 or not graph.is_zero(zero):
                yield node


def mixed_types(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Arithmetic on tensors of two floating types."""
    for node in graph.nodes:
        if node.op_type in _ELEMENTWISE and len(set(graph.inputs(node)) & set(_FLOATS)) > 1:
            yield node


def unknown_operator(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Operators that the parser of that version does not know."""
    for node in graph.nodes:
        new = older(target, FIRST_KNOWN.get(node.op_type, (0, 0)))
        if node.op_type == "GroupNormalization" and graph.opset >= 21:
            new = older(target, (10, 9))
        foreign = node.domain not in ("", "ai.onnx") and node.op_type not in graph.functions
        if new or foreign or (target.tensorrt and node.op_type in UNKNOWN):
            yield node


def bf16_missing(*, everywhere: bool) -> Callable[[Graph, Target], Iterator[NodeProto]]:
    """The first node with bfloat16, if all of the target's GPUs (or some, but not all) lack it."""

    def find(graph: Graph, target: Target) -> Iterator[NodeProto]:
        lacking = [not can(gpu, "bf16") for gpu in target.gpus]
        if any(lacking) and all(lacking) is everywhere:
            yield from [n for n in graph.nodes if TensorProto.BFLOAT16 in graph.inputs(n)][:1]

    return find


def older(target: Target, than: tuple[int, int]) -> bool:
    """Whether the target's TensorRT is older; False where the installed library's own parser is used."""
    return target.tensorrt is not None and target.tensorrt < than
