"""Faults that TensorRT's parsers refuse or that engines are known to compute wrongly: one row a rule.

The rules are checked on the ONNX graph, on any machine, before anything is built.  They find known faults
only: whether an engine computes the right values is decided by the parity gate on the device.

Each rule names its source: docs/operators.md of onnx/onnx-tensorrt, a public report by repository and number,
or NVIDIA's support matrix.  `tests/export/graph/test_rules.py` has a failing graph for each, and gives
those that TensorRT-RTX refuses to its parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from export.graph.structure import attributes
from export.targets import Target, can
from runtime.errors import ExportError

ERROR, WARNING = "error", "warning"
_SHOWN = 8
"""At most this many nodes of one finding are named."""
_OPERATORS = "onnx/onnx-tensorrt, docs/operators.md"
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


Find = Callable[[Graph, Target], Iterable[NodeProto]]
"""The nodes of a graph that break one rule for a target."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One known fault."""

    name: str
    level: str
    """`error`: the graph does not build, or computes wrong values; `warning`: it may."""
    find: Find
    happens: str
    cure: str
    source: str


@dataclass(frozen=True)
class Finding:
    """A rule that a graph breaks."""

    rule: Rule
    nodes: tuple[str, ...]
    """Operator and name of each node."""

    def __str__(self) -> str:
        more = f" and {len(self.nodes) - _SHOWN} more" if len(self.nodes) > _SHOWN else ""
        return (
            f"{self.rule.name}: {', '.join(self.nodes[:_SHOWN])}{more}\n"
            f"      {self.rule.happens} ({self.rule.source})\n      cure: {self.rule.cure}"
        )


def _each(test: Callable[[Graph, Target, NodeProto], object]) -> Find:
    """Every node for which the test holds."""
    return lambda graph, target: (node for node in graph.nodes if test(graph, target, node))


def _operators(*kinds: str) -> Find:
    return _each(lambda graph, target, node: node.op_type in kinds)


def _layer_norm_in_pieces(graph: Graph, target: Target) -> list[NodeProto]:
    """The mean of (x − mean x)², a variance: a LayerNorm in pieces has one, an RMSNorm has none."""
    means = {n.output[0] for n in graph.nodes if n.op_type == "ReduceMean"}
    deviations = {n.output[0] for n in graph.nodes if n.op_type == "Sub" and set(n.input) & means}
    squares = {
        n.output[0]
        for n in graph.nodes
        if (n.op_type == "Pow" and n.input[0] in deviations)
        or (n.op_type == "Mul" and n.input[0] == n.input[1] and n.input[0] in deviations)
    }
    return [n for n in graph.nodes if n.op_type == "ReduceMean" and n.input[0] in squares]


def _moves_uint8(graph: Graph, target: Target, node: NodeProto) -> bool:
    """Whether it takes uint8; Cast, Shape and quantisation may."""
    return node.op_type not in ("Cast", "Shape", *_QUANTISING) and TensorProto.UINT8 in graph.inputs(node)


def _unsigned_int8(graph: Graph, target: Target, node: NodeProto) -> bool:
    """Whether it quantises with an unsigned type or a zero point that is not zero."""
    if node.op_type not in _QUANTISING or len(node.input) <= 2:
        return False
    return graph.types.get(node.input[2]) == TensorProto.UINT8 or not graph.is_zero(node.input[2])


def _mixed_types(graph: Graph, target: Target, node: NodeProto) -> bool:
    """Whether a node computes with tensors of two floating types."""
    return node.op_type in _ELEMENTWISE and len(set(graph.inputs(node)) & set(_FLOATS)) > 1


def _unknown(graph: Graph, target: Target, node: NodeProto) -> bool:
    """Whether it is of another domain, or the parser of the target's version does not know it."""
    if node.domain not in ("", "ai.onnx") and node.op_type not in graph.functions:
        return True
    known = FIRST_KNOWN.get(node.op_type, (0, 0))
    if node.op_type == "GroupNormalization" and graph.opset >= 21:
        known = (10, 9)
    return target.tensorrt is not None and (target.tensorrt < known or node.op_type in UNKNOWN)


def _bf16_missing(*, everywhere: bool) -> Find:
    """A finder of the first node that uses bfloat16, for targets whose GPUs lack it.

    Args:
        everywhere: True: all of the target's GPUs lack it; False: some, but not all.
    """

    def find(graph: Graph, target: Target) -> list[NodeProto]:
        lacking = [not can(gpu, "bf16") for gpu in target.gpus]
        if not any(lacking) or all(lacking) is not everywhere:
            return []
        return [n for n in graph.nodes if TensorProto.BFLOAT16 in graph.inputs(n)][:1]

    return find


EVERYWHERE = (
    Rule(
        name="control flow",
        level=ERROR,
        find=_operators("If", "Loop", "Scan"),
        happens="the exporter left a branch in the graph; such engines were wrong or did not build",
        cure="make rotary and position tables constants of a fixed size, and use no torch.tile in them",
        source="lightly-train 783, romav2-onnx 6",
    ),
    Rule(
        name="LayerNorm in pieces",
        level=ERROR,
        find=_layer_norm_in_pieces,
        happens="the squares overflow in half precision; the accuracy of a ViT-B fell to 19% on an Orin Nano",
        cure="use torch.nn.LayerNorm, which becomes one LayerNormalization",
        source="NVIDIA/TensorRT 2564, pytorch/TensorRT 2730 and 4061",
    ),
    Rule(
        name="antialiased Resize",
        level=ERROR,
        find=_each(lambda _, __, n: n.op_type == "Resize" and attributes(n).get("antialias")),
        happens="the parser refuses it",
        cure="interpolate without antialias in the graph; resize photographs before it",
        source=_OPERATORS,
    ),
    Rule(
        name="uint8 that is not cast first",
        level=ERROR,
        find=_each(_moves_uint8),
        happens="the parser takes uint8 as an input and into Cast only, not into Transpose or Resize",
        cure="cast the image before anything else",
        source=_OPERATORS,
    ),
)
"""Rules for every TensorRT: no package is made that breaks one."""

RULES = (
    *EVERYWHERE,
    Rule(
        name="unknown operator",
        level=ERROR,
        find=_each(_unknown),
        happens="the parser of this version does not know it",
        cure="export with a lower opset, so that it becomes older operators, or write it in those",
        source=_OPERATORS,
    ),
    Rule(
        name="mixed types",
        level=ERROR,
        find=_each(_mixed_types),
        happens="a strongly typed network refuses operands of two floating types",
        cure="export the whole module in one type (--precision fp16); do not convert a float32 graph",
        source="onnxconverter-common 320",
    ),
    Rule(
        name="unsigned int8",
        level=ERROR,
        find=_each(_unsigned_int8),
        happens="values must be signed and zero points zero; some parsers read others as signed",
        cure="build from model.int8.trt.onnx; model.int8.cpu.onnx is for onnxruntime",
        source=_OPERATORS,
    ),
    *(
        Rule(
            name=f"bf16 that {which} GPUs lack",
            level=level,
            find=_bf16_missing(everywhere=level == ERROR),
            happens="bf16 needs compute capability 8.0 or newer: the build fails on others",
            cure="--precision fp16",
            source="NVIDIA's support matrix of TensorRT",
        )
        for level, which in ((ERROR, "its"), (WARNING, "some of its"))
    ),
    Rule(
        name="Tile",
        level=WARNING,
        find=_operators("Tile"),
        happens="ViT engines of TensorRT 10.3 were wrong where rotary tables were tiled at run time",
        cure="keep the whole table as a constant; compare the device's parity figures",
        source="lightly-train 783; NVIDIA/TensorRT 4558",
    ),
)


def lint(model: onnx.ModelProto, target: Target, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """Every rule that the graph breaks for that target, errors first."""
    graph = Graph(model)
    found = ((rule, tuple(_label(node) for node in rule.find(graph, target))) for rule in rules)
    findings = [Finding(rule, nodes) for rule, nodes in found if nodes]
    return sorted(findings, key=lambda finding: finding.rule.level != ERROR)


def check(path: Path, target: Target) -> list[Finding]:
    """Lint a file for a target; returns the warnings.

    Raises:
        ExportError: naming every node that is an error.
    """
    findings = lint(onnx.load(str(path), load_external_data=False), target)
    errors = [f for f in findings if f.rule.level == ERROR]
    if errors:
        error = ExportError(
            f"{path.name} would fail on {described(target)}:\n    " + "\n    ".join(map(str, errors)),
            expected="none of these",
            cure="change the named nodes at export, as each line says, or choose another --target",
        )
        error.reason = {
            "code": "rules",
            "graph": path.name,
            "target": described(target),
            "rules": {finding.rule.name: list(finding.nodes[:_SHOWN]) for finding in errors},
        }
        raise error
    return findings


def described(target: Target) -> str:
    """The target with its parser's version, for messages."""
    return target.name + (f" (TensorRT {'.'.join(map(str, target.tensorrt))})" if target.tensorrt else "")


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')}".strip()
