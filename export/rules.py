"""What TensorRT's parsers refuse, and what engines are known to get wrong: one row a rule.

Checked on the ONNX graph, on any machine, before anything is built.  It finds what is known; whether an
engine computes what it should, only the parity gate on the device can say.

Sources: `parser` is the list of operators and the changelog of onnx/onnx-tensorrt; `measured` was seen
with the parser of TensorRT-RTX 1.7.1; the others are public reports, by repository and number.
int64 needs no rule: it is native since TensorRT 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto

from export import faults
from export.targets import Target
from runtime.errors import ExportError

ERROR, WARNING = "error", "warning"
_SHOWN = 8
"""At most this many nodes of one finding are named."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that is looked for."""

    name: str
    level: str
    """`error`: it will not build, or not compute the same; `warning`: it may not."""
    find: Callable[[faults.Graph, Target], Iterator[NodeProto]]
    """The nodes at fault, for a target."""
    happens: str
    cure: str
    source: str


@dataclass(frozen=True)
class Finding:
    """A rule that a graph trips."""

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
        find=faults.operators("If", "Loop", "Scan"),
        happens="a branch of the exporter is left in the graph: engines with it were wrong or did not build",
        cure="make rotary and position tables constants of a fixed size, and use no torch.tile in them",
        source="lightly-train 783, romav2-onnx 6",
    ),
    Rule(
        name="LayerNorm in pieces",
        level=ERROR,
        find=faults.layer_norm_in_pieces,
        happens="the squares overflow in half precision: a ViT-B fell to 19% on an Orin Nano",
        cure="use torch.nn.LayerNorm, which becomes one LayerNormalization",
        source="NVIDIA/TensorRT 2564, pytorch/TensorRT 2730 and 4061",
    ),
    Rule(
        name="antialiased Resize",
        level=ERROR,
        find=faults.antialiased_resize,
        happens="the parser refuses it",
        cure="interpolate without antialias in the graph; resize photographs before it",
        source="parser; measured",
    ),
    Rule(
        name="uint8 that is not cast first",
        level=ERROR,
        find=faults.moved_uint8,
        happens="the parser takes uint8 as an input and into a Cast only, not into a Transpose or a Resize",
        cure="cast the image before anything else",
        source="parser; measured",
    ),
)
"""Rules for every TensorRT: a package is never made with these."""

RULES = (
    *EVERYWHERE,
    Rule(
        name="unknown operator",
        level=ERROR,
        find=faults.unknown_operator,
        happens="the parser of this version does not know it",
        cure="export with a lower opset, so that it becomes older operators, or write it in those",
        source="parser",
    ),
    Rule(
        name="mixed types",
        level=ERROR,
        find=faults.mixed_types,
        happens="a strongly typed network refuses operands of two floating types",
        cure="export the whole module in one type (--precision fp16); do not convert a float32 graph",
        source="measured; onnxconverter-common 320",
    ),
    Rule(
        name="BatchNorm of two types",
        level=ERROR,
        find=faults.mixed_batch_norm,
        happens="the parser takes statistics of another type only from 10.7 on",
        cure="export with the module in eval mode and half precision throughout",
        source="parser",
    ),
    Rule(
        name="Pad with axes",
        level=ERROR,
        find=faults.pad_with_axes,
        happens="the parser takes a tensor of axes only from 10.4 on",
        cure="pad all axes: torch.nn.functional.pad, simplified by onnxsim",
        source="parser",
    ),
    Rule(
        name="unsigned int8",
        level=ERROR,
        find=faults.unsigned_int8,
        happens="zero points must be zero, numbers signed; some parsers read others as signed",
        cure="build from model.int8.trt.onnx; model.int8.cpu.onnx is onnxruntime's",
        source="parser",
    ),
    *(
        Rule(
            name=f"{name} that {which} GPUs lack",
            level=level,
            find=faults.type_missing_on(types, name, everywhere=level == ERROR),
            happens=f"{name} needs compute capability {since} or newer: the build fails on others",
            cure="--precision fp16",
            source="measured; NVIDIA's support matrices",
        )
        for name, types, since in (("bf16", faults.BF16, "8.0"), ("fp8", faults.FP8, "8.9"))
        for level, which in ((ERROR, "its"), (WARNING, "some of its"))
    ),
    Rule(
        name="Tile",
        level=WARNING,
        find=faults.operators("Tile"),
        happens="rotary tables that are tiled at run time were behind wrong ViT engines on 10.3",
        cure="keep the whole table as a constant; compare the device's parity figures",
        source="lightly-train 783; NVIDIA/TensorRT 4558",
    ),
    Rule(
        name="opset newer than the parser",
        level=WARNING,
        find=faults.newer_opset,
        happens="it parses what it knows, with an opset its makers had not seen",
        cure="use the precision whose graph has the lower opset: fp16 has 18, int8 20, bf16 22",
        source="parser",
    ),
    Rule(
        name="norm in half precision",
        level=WARNING,
        find=faults.halves_squared,
        happens="a sum of squares passes 65504, and its floor (1e-12) becomes zero",
        cure="normalise in float32: x.float() before torch.nn.functional.normalize",
        source="measured",
    ),
)


def lint(model: onnx.ModelProto, target: Target, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """Every rule that the graph trips for that target, errors first."""
    graph = faults.Graph(model)
    found = ((rule, tuple(_label(node) for node in rule.find(graph, target))) for rule in rules)
    findings = [Finding(rule, nodes) for rule, nodes in found if nodes]
    return sorted(findings, key=lambda finding: finding.rule.level != ERROR)


def check(path: Path, target: Target) -> list[Finding]:
    """Lint a file for a target; the warnings.

    Raises:
        ExportError: naming every node that is an error.
    """
    findings = lint(onnx.load(str(path), load_external_data=False), target)
    errors = [f for f in findings if f.rule.level == ERROR]
    if errors:
        raise ExportError(
            f"{path.name} would fail on {described(target)}:\n    " + "\n    ".join(map(str, errors)),
            expected="none of these",
            cure="change the named nodes at export, as each line says, or choose another --target",
        )
    return findings


def described(target: Target) -> str:
    """The target with its parser's version, for messages."""
    return target.name + (f" (TensorRT {'.'.join(map(str, target.tensorrt))})" if target.tensorrt else "")


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')}".strip()
