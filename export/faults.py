"""Finders for `export.rules`: each gives the nodes of a graph that a rule is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.structure import attributes
from export.targets import Target, can

FP8 = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)
BF16 = (TensorProto.BFLOAT16,)
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
"""Operators that a parser of TensorRT 10 learnt on the way."""

_UNKNOWN = """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im
    Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial Optional OptionalGetElement OptionalHasElement
    QLinearConv QLinearMatMul SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SequenceMap SplitToSequence Unique
"""
UNKNOWN = frozenset(_UNKNOWN.split())
"""Operators that the parsers' lists name as not supported, to 10.15."""

OPSETS = (((11, 5), 25), ((10, 15), 24), ((10, 11), 23), ((10, 6), 22), ((10, 0), 20))
"""From which TensorRT on which opset is the newest its parser was written for."""


class Graph:
    """A model, and the type of each of its tensors as far as they can be inferred; weights are not read."""

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
        """Whether a constant is all zeros; one whose values lie in the weights' file is taken for zero."""
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
    """The mean of (x − mean x)², a variance: a LayerNorm in pieces has it, an RMSNorm not."""
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
    """Anything that takes uint8, but a cast or a look at its shape."""
    for node in graph.nodes:
        if node.op_type not in ("Cast", "Shape", *_QUANTISING) and TensorProto.UINT8 in graph.inputs(node):
            yield node


def unsigned_int8(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Quantisation to unsigned or to asymmetric numbers."""
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


def mixed_batch_norm(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """A BatchNormalization with statistics of another type, before 10.7."""
    if older(target, (10, 7)):
        for node in graph.nodes:
            if node.op_type == "BatchNormalization" and len(set(graph.inputs(node))) > 1:
                yield node


def pad_with_axes(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Pad with its input `axes`, before 10.4."""
    if older(target, (10, 4)):
        yield from (n for n in graph.nodes if n.op_type == "Pad" and len(n.input) > 3 and n.input[3])


def unknown_operator(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Operators that the parser of that version does not know."""
    for node in graph.nodes:
        new = older(target, FIRST_KNOWN.get(node.op_type, (0, 0)))
        if node.op_type == "GroupNormalization" and graph.opset >= 21:
            new = older(target, (10, 9))
        foreign = node.domain not in ("", "ai.onnx") and node.op_type not in graph.functions
        if new or foreign or (target.tensorrt and node.op_type in UNKNOWN):
            yield node


def newer_opset(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """The first node, to show one, if the graph's opset is newer than the parser."""
    known = next((opset for since, opset in OPSETS if not older(target, since)), OPSETS[0][1])
    if target.tensorrt and graph.opset > known:
        yield from graph.nodes[:1]


def halves_squared(graph: Graph, target: Target) -> Iterator[NodeProto]:
    """Sums of squares in half precision."""
    for node in graph.nodes:
        squares = node.op_type in ("LpNormalization", "ReduceL2", "ReduceSumSquare")
        if squares and TensorProto.FLOAT16 in graph.inputs(node):
            yield node


def type_missing_on(
    types: tuple[int, ...], precision: str, *, everywhere: bool
) -> Callable[[Graph, Target], Iterator[NodeProto]]:
    """The first node with such a type, if all of the target's GPUs (or some, but not all) lack it."""

    def find(graph: Graph, target: Target) -> Iterator[NodeProto]:
        lacking = [not can(gpu, precision) for gpu in target.gpus]
        if any(lacking) and all(lacking) is everywhere:
            found = (n for n in graph.nodes if set(graph.inputs(n)) & set(types))
            yield from (node for node, _ in zip(found, range(1), strict=False))

    return find


def older(target: Target, than: tuple[int, int]) -> bool:
    """Whether the target's TensorRT is older; False where the library itself will be asked."""
    return target.tensorrt is not None and target.tensorrt < than
