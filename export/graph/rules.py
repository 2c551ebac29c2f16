"""Faults that TensorRT's parsers refuse or that engines are known to compute wrongly: one row a rule.

The rules are checked on the ONNX graph, on any machine, before anything is built.  They find known faults
only: whether an engine computes the right values is decided by the parity gate on the device.

Each rule names its source: docs/operators.md of onnx/onnx-tensorrt, a public report by repository and number,
or NVIDIA's support matrix.  `tests/export/graph/test_rules.py` has a failing graph for each, and gives
those that TensorRT-RTX refuses to its parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto

from export.graph import rule_finders
from export.targets import Target
from runtime.errors import ExportError

ERROR, WARNING = "error", "warning"
_SHOWN = 8
"""At most this many nodes of one finding are named."""
_OPERATORS = "onnx/onnx-tensorrt, docs/operators.md"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One known fault."""

    name: str
    level: str
    """`error`: the graph does not build, or computes wrong values; `warning`: it may."""
    find: Callable[[rule_finders.Graph, Target], Iterator[NodeProto]]
    """Returns the nodes at fault, for a target."""
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


EVERYWHERE = (
    Rule(
        name="control flow",
        level=ERROR,
        find=rule_finders.operators("If", "Loop", "Scan"),
        happens="the exporter left a branch in the graph; such engines were wrong or did not build",
        cure="make rotary and position tables constants of a fixed size, and use no torch.tile in them",
        source="lightly-train 783, romav2-onnx 6",
    ),
    Rule(
        name="LayerNorm in pieces",
        level=ERROR,
        find=rule_finders.layer_norm_in_pieces,
        happens="the squares overflow in half precision; the accuracy of a ViT-B fell to 19% on an Orin Nano",
        cure="use torch.nn.LayerNorm, which becomes one LayerNormalization",
        source="NVIDIA/TensorRT 2564, pytorch/TensorRT 2730 and 4061",
    ),
    Rule(
        name="antialiased Resize",
        level=ERROR,
        find=rule_finders.antialiased_resize,
        happens="the parser refuses it",
        cure="interpolate without antialias in the graph; resize photographs before it",
        source=_OPERATORS,
    ),
    Rule(
        name="uint8 that is not cast first",
        level=ERROR,
        find=rule_finders.moved_uint8,
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
        find=rule_finders.unknown_operator,
        happens="the parser of this version does not know it",
        cure="export with a lower opset, so that it becomes older operators, or write it in those",
        source=_OPERATORS,
    ),
    Rule(
        name="mixed types",
        level=ERROR,
        find=rule_finders.mixed_types,
        happens="a strongly typed network refuses operands of two floating types",
        cure="export the whole module in one type (--precision fp16); do not convert a float32 graph",
        source="onnxconverter-common 320",
    ),
    Rule(
        name="unsigned int8",
        level=ERROR,
        find=rule_finders.unsigned_int8,
        happens="values must be signed and zero points zero; some parsers read others as signed",
        cure="build from model.int8.trt.onnx; model.int8.cpu.onnx is for onnxruntime",
        source=_OPERATORS,
    ),
    *(
        Rule(
            name=f"bf16 that {which} GPUs lack",
            level=level,
            find=rule_finders.bf16_missing(everywhere=level == ERROR),
            happens="bf16 needs compute capability 8.0 or newer: the build fails on others",
            cure="--precision fp16",
            source="NVIDIA's support matrix of TensorRT",
        )
        for level, which in ((ERROR, "its"), (WARNING, "some of its"))
    ),
    Rule(
        name="Tile",
        level=WARNING,
        find=rule_finders.operators("Tile"),
        happens="ViT engines of TensorRT 10.3 were wrong where rotary tables were tiled at run time",
        cure="keep the whole table as a constant; compare the device's parity figures",
        source="lightly-train 783; NVIDIA/TensorRT 4558",
    ),
)


def lint(model: onnx.ModelProto, target: Target, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """Every rule that the graph breaks for that target, errors first."""
    graph = rule_finders.Graph(model)
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
