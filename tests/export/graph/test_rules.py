"""Each lint rule finds its fault in a small failing graph, and finds nothing in clean graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import rules
from export.targets import REFUSED, TARGETS, find
from runtime.errors import ExportError, InputError

HALF, BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}", **attributes)


def model(*nodes, opset=18, constants=None, domain=""):
    """uint8 image → `f` (half) → the nodes → float32 `out`."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["f"], "cast", to=HALF),
            *nodes,
            helper.make_node("Cast", [nodes[-1].output[0]], ["out"], "end", to=TensorProto.FLOAT),
        ],
        "tiny",
        [value("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [value("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def wide(name="w"):
    return node("Cast", "image", name, to=TensorProto.FLOAT)


def quantised(zero):
    scale = np.array(0.1, np.float16)
    return model(node("QuantizeLinear", "f s z", "q"), opset=20, constants={"s": scale, "z": zero})


IN_BF16 = model(node("Cast", "f", "b", to=BF16), node("Relu", "b", "x"))
PIECES = (node("Sub", "f m", "d"), node("Pow", "d two", "p"), node("ReduceMean", "p", "v"))
RMS_NORM = node("RMSNormalization", "f g", "x")
FAULTY = {
    "control flow": (model(helper.make_node("Loop", ["", "", "f"], ["x"], "the_Loop")), "jetpack6", "Loop"),
    "LayerNorm in pieces": (
        model(helper.make_node("ReduceMean", ["f"], ["m"], "mean"), *PIECES),
        "jetpack6",
        "ReduceMean",
    ),
    "antialiased Resize": (model(node("Resize", "f", "x", antialias=1)), "rtx", "Resize"),
    "uint8 that is not cast first": (
        model(node("Transpose", "image", "x", perm=[0, 3, 1, 2])),
        "datacenter",
        "Transpose",
    ),
    "unknown operator": (
        model(RMS_NORM, opset=23, constants={"g": np.ones(3, np.float16)}),
        "jetpack6",
        "RMSNormalization",
    ),
    "mixed types": (model(wide(), node("Add", "f w", "x")), "jetpack7", "Add"),
    "unsigned int8": (quantised(np.array(0, np.uint8)), "rtx", "QuantizeLinear"),
    "bf16 that its GPUs lack": (IN_BF16, "rtx-sm75", "Relu"),
    "bf16 that some of its GPUs lack": (IN_BF16, "datacenter", "Relu"),
    "Tile": (model(node("Tile", "f r", "x"), constants={"r": np.ones(4, np.int64)}), "jetpack6", "Tile"),
}
"""Rule → a graph that breaks it, for which target, and the kind of the node at fault."""


def broken(graph, target):
    return {f.rule.name for f in rules.lint(graph, TARGETS[target])}


def test_every_rule_has_a_failing_graph_and_source():
    assert set(FAULTY) == {rule.name for rule in rules.RULES}
    assert all(rule.source for rule in rules.RULES)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (FAULTY["antialiased Resize"][0], "Antialiasing is not supported"),
        (FAULTY["uint8 that is not cast first"][0], "has type UInt8"),
        (FAULTY["mixed types"][0], "must have same input types"),
        (quantised(np.array(3, np.uint8)), "Non-zero zero point is not supported"),
        (model(node("Bernoulli", "f", "x"), opset=20), ""),
    ],
)
def test_the_rtx_parser_refuses_the_failing_graph(graph, said):
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(log := trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert not parser.parse(graph.SerializeToString())
    assert said in parser.get_error(0).desc()


@pytest.mark.parametrize("name", FAULTY)
def test_a_rule_names_the_node_at_fault(name):
    graph, target, kind = FAULTY[name]
    (finding,) = [f for f in rules.lint(graph, TARGETS[target]) if f.rule.name == name]
    assert finding.nodes == (f"{kind} the_{kind}",)
    for part in (finding.rule.happens, finding.rule.cure, finding.rule.source):
        assert part in str(finding)


ATTENTION = node("Attention", "f", "x", domain="com.microsoft")
GROUP_NORM = node("GroupNormalization", "f a b", "x", num_groups=1)


@pytest.mark.parametrize(
    ("rule", "graph", "faulty", "fine"),
    [
        ("unknown operator", FAULTY["unknown operator"][0], "jetpack6", "jetpack7.2"),  # it came with 10.15
        ("unknown operator", model(node("Bernoulli", "f", "x"), opset=20), "datacenter", "rtx"),
        ("unknown operator", model(node("Unique", "f", "x"), opset=20), "datacenter", "rtx"),
        ("unknown operator", model(GROUP_NORM, opset=21), "jetpack6", "jetpack7"),  # it came with 10.9
        ("unknown operator", model(ATTENTION, domain="com.microsoft"), "datacenter", None),
        ("unsigned int8", quantised(np.array(3, np.int8)), "rtx", None),
        ("bf16 that its GPUs lack", FAULTY["bf16 that its GPUs lack"][0], "rtx-sm75", "jetpack6"),
    ],
)
def test_the_target_decides_what_is_a_fault(rule, graph, faulty, fine):
    """The parser of RTX itself decides at the build."""
    assert rule in broken(graph, faulty)
    assert fine is None or broken(graph, fine) == set()


@pytest.mark.parametrize("target", [t.name for t in TARGETS.values() if t.gpus])
def test_clean_graphs_break_no_rule(target):
    layer_norm = {"g": np.ones(3, np.float16), "two": np.array(2, np.float16), "r": np.ones(1, np.int64)}
    clean = [
        model(node("Transpose", "f", "x", perm=[0, 3, 1, 2])),
        model(node("LayerNormalization", "f g", "x"), constants=layer_norm),
        model(node("Pow", "f two", "p"), node("ReduceMean", "p", "x"), constants=layer_norm),  # an RMSNorm
        model(node("Shape", "image", "s"), node("Relu", "f", "x")),
        model(wide(), node("LpNormalization", "w", "x", axis=-1)),
        quantised(np.array(0, np.int8)),
    ]
    assert [broken(graph, target) for graph in clean] == [set()] * len(clean)


def test_check_raises_for_errors_and_returns_warnings(tmp_path):
    for name in ("control flow", "Tile"):
        onnx.save(FAULTY[name][0], tmp_path / f"{name}.onnx")
    with pytest.raises(ExportError) as refused:
        rules.check(tmp_path / "control flow.onnx", TARGETS["jetpack6"])
    assert "jetpack6 (TensorRT 10.3)" in str(refused.value)
    assert "Loop the_Loop" in str(refused.value)
    assert [f.rule.name for f in rules.check(tmp_path / "Tile.onnx", TARGETS["jetpack6"])] == ["Tile"]


def test_a_finding_lists_eight_nodes_and_counts_others():
    tiles = [helper.make_node("Tile", ["f", "r"], [f"x{i}"], f"tile{i}") for i in range(12)]
    (finding,) = rules.lint(model(*tiles), TARGETS["jetpack6"])
    assert "tile7 and 4 more" in str(finding)


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_target_says_why(name):
    with pytest.raises(InputError) as refused:
        find(name)
    assert refused.value.came == f"target {name}: {REFUSED[name][0]}"
    assert refused.value.cure == REFUSED[name][1]


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(InputError, match="jetpack7.2"):
        find("jetpack9")


def test_the_table_of_targets_is_consistent():
    for target in TARGETS.values():
        assert (target.flavour == "rtx") is bool(target.engines)
        assert target.tensorrt is None or target.flavour is None
