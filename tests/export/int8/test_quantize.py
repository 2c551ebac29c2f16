"""int8 is what was asked for: near the float graph, on the right tensors, of the right types."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.graph.session import Session, widened, with_outputs
from export.graph.structure import Structure
from export.int8.calibrate import best_range, ranges
from export.int8.for_onnxruntime import int8_nodes, quantize_cpu
from export.int8.for_tensorrt import FLOAT_LAYERS, insert_qdq
from export.int8.rounding import Rounding
from export.int8.write import losses


def toy(*, half: bool = False, seed: int = 0, weight: float = 0.2, join: str = "Add") -> onnx.ModelProto:
    """stem → two convolutions, joined with the skip → pooled embedding, and a 1×1 logit → mask."""
    rng = np.random.default_rng(seed)
    dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    c = 8 if join == "Add" else 16
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3)}
    shapes |= {"w3": (8, c, 3, 3), "w4": (1, 8, 1, 1)}
    constants = {k: rng.normal(0, weight, s).astype(dtype) for k, s in shapes.items()}
    constants |= {"unit": np.array(1 / 255, dtype), "axes": np.array([2, 3]), "one": np.array([1])}

    def conv(x: str, w: str, out: str) -> onnx.NodeProto:
        pads = [shapes[w][2] // 2] * 4
        return helper.make_node("Conv", [x, w], [out], f"conv_{w}", pads=pads)

    nodes = [
        helper.make_node("Cast", ["image"], ["f"], "cast", to=kind),
        helper.make_node("Transpose", ["f"], ["t"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["t", "unit"], ["x"], "scale"),
        conv("x", "w0", "a"),
        helper.make_node("Relu", ["a"], ["skip"], "relu0"),
        conv("skip", "w1", "b"),
        helper.make_node("Relu", ["b"], ["c"], "relu1"),
        conv("c", "w2", "d"),
        helper.make_node(join, ["d", "skip"], ["e"], "join", **({} if join == "Add" else {"axis": 1})),
        conv("e", "w3", "g"),
        helper.make_node("Relu", ["g"], ["h"], "relu2"),
        helper.make_node("ReduceMean", ["h", "axes"], ["z"], "pool", keepdims=0),
        helper.make_node("Cast", ["z"], ["embedding"], "out0", to=TensorProto.FLOAT),
        conv("h", "w4", "logit"),
        helper.make_node("Squeeze", ["logit", "one"], ["s"], "squeeze"),
        helper.make_node("Cast", ["s"], ["wide"], "out1", to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["wide"], ["mask"], "sigmoid"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [value("image", TensorProto.UINT8, ["N", 12, 12, 3])],
        [value("embedding", TensorProto.FLOAT, ["N", 8]), value("mask", TensorProto.FLOAT, ["N", 12, 12])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


IMAGES = np.random.default_rng(1).integers(0, 256, (6, 12, 12, 3), np.uint8)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), weight=st.floats(0.01, 1.0))
def test_int8_is_within_its_steps_of_float(seed: int, weight: float) -> None:
    """One layer in int8: every output is off by at most half a step of each of its terms."""
    model = toy(seed=seed, weight=weight)
    graph = Structure(model)
    bounds = ranges(model, IMAGES)
    others = {n.name for n in graph.weighted()} - {"conv_w1"}
    quantised = insert_qdq(model, bounds, keep_float=others)
    exact, x = Session(with_outputs(model, ["b", "skip"]))(["b", "skip"], IMAGES)
    (rounded,) = Session(with_outputs(quantised, ["b"]), as_written=True)(["b"], IMAGES)
    w = constants(model)["w1"]
    x_step = max(abs(end) for end in bounds["skip"]) / 127
    w_step = np.abs(w).max() / 127
    each = np.abs(w).max() * x_step / 2 + np.abs(x).max() * w_step / 2 + x_step * w_step / 4
    assert 0 < np.abs(exact - rounded).max() <= w[0].size * each * 1.001


def test_only_the_skip_of_a_residual_is_quantised() -> None:
    model = toy()
    quantised = insert_qdq(model, ranges(model, IMAGES), keep_float=Structure(model).heads())
    join = next(n for n in quantised.graph.node if n.name == "join")
    assert list(join.input) == ["d", "skip_dequantized"]
    pairs = [n for n in quantised.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "skip"]
    assert len(pairs) == 1  # the convolution and the addition share it


def test_what_a_concatenation_joins_has_one_scale() -> None:
    model = toy(join="Concat")
    quantised = insert_qdq(model, ranges(model, IMAGES), keep_float=())
    values = constants(quantised)
    join = next(n for n in quantised.graph.node if n.name == "join")
    assert list(join.input) == ["d_dequantized", "skip_dequantized"]
    assert values["d_scale"] == values["skip_scale"] == values["e_scale"]


def test_half_graph_has_half_scales_and_zero_points() -> None:
    half = toy(half=True)
    quantised = insert_qdq(half, ranges(widened(half), IMAGES), keep_float=Structure(half).heads())
    onnx.checker.check_model(quantised, full_check=True)
    values = constants(quantised)
    assert {v.dtype for k, v in values.items() if k.endswith("_scale")} == {np.dtype(np.float16)}
    zeros = [v for k, v in values.items() if k.endswith("_zero")]
    assert zeros
    assert all(v.dtype == np.int8 and not v.any() for v in zeros)
    assert values["w1_scale"].shape == (8,)
    assert "w1" not in values  # the float weight is gone
    assert {p.key: json.loads(p.value) for p in quantised.metadata_props} == {FLOAT_LAYERS: ["conv_w4"]}
    embedding, _ = Session(widened(quantised), as_written=True).explain(IMAGES)
    expected, _ = Session(widened(half)).explain(IMAGES)
    assert np.abs(embedding - expected).max() < 0.05 * np.abs(expected).max()


def test_heads_and_stems_are_found_by_structure() -> None:
    graph = Structure(toy())
    assert graph.heads() == {"conv_w4"}  # and not the convolution before the pooling
    assert graph.stems() == {"conv_w0"}


@pytest.mark.parametrize(("reduce_range", "exact"), [(True, True), (False, False)])
def test_seven_bits_never_saturate_and_eight_can(reduce_range: bool, exact: bool) -> None:
    """Two products at their largest: 2·255·127 leaves 16 bits, 2·255·64 does not.

    With VNNI eight bits are exact too, so the largest sum is checked and not this CPU's result.
    """
    model = toy()
    quantised = quantize_cpu(model, ranges(model, IMAGES), heads=(), reduce_range=reduce_range)
    weights = [w.astype(int) for w in constants(quantised).values() if w.dtype == np.int8 and w.ndim == 4]
    sums = 2 * 255 * max(int(np.abs(w).max()) for w in weights)
    assert (sums <= np.iinfo(np.int16).max) is exact


def test_cpu_kernels_match_the_graph_as_written() -> None:
    """Weights all at their largest and a white image: kernels that saturate would be off by half."""
    model = toy()
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "w1", "w2", "w3"):
            full = np.full(tuple(tensor.dims), 0.1, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(full, tensor.name))
    white = np.full((1, 12, 12, 3), 255, np.uint8)
    bounds = ranges(model, white)
    quantised = quantize_cpu(model, bounds, heads=Structure(model).heads())
    kernels, _ = Session(quantised).explain(white)
    written, _ = Session(quantised, as_written=True).explain(white)
    np.testing.assert_allclose(kernels, written, rtol=0.02)


def test_cpu_form_is_unsigned_with_float_heads() -> None:
    model = toy()
    quantised = quantize_cpu(model, ranges(model, IMAGES), heads=Structure(model).heads())
    values = constants(quantised)
    zeros = {n.input[2] for n in quantised.graph.node if n.op_type == "QuantizeLinear"}
    assert {values[z].dtype for z in zeros} == {np.dtype(np.uint8)}
    head = next(n for n in quantised.graph.node if n.name == "conv_w4")
    assert head.input[1] == "w4"
    weights = [v for k, v in values.items() if k.startswith("w1") and v.dtype == np.int8 and v.ndim == 4]
    assert len(weights) == 1
    assert np.abs(weights[0].astype(int)).max() <= 64
    assert "join" in int8_nodes(model, Structure(model).heads())


def test_rounding_compensates_its_errors() -> None:
    """The mean output of an int8 layer stays, and its error is below that of rounding each weight alone."""
    model = toy()
    others = {n.name for n in Structure(model).weighted()} - {"conv_w1"}
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.float32), "b1"))
    next(n for n in model.graph.node if n.name == "conv_w1").input.append("b1")
    quantised = insert_qdq(model, ranges(model, IMAGES), keep_float=others)
    plain = losses(model, quantised, IMAGES)
    Rounding(model, IMAGES).apply(quantised)
    made_up = losses(model, quantised, IMAGES)
    assert 0 < made_up["conv_w1"] < 0.8 * plain["conv_w1"]
    assert plain.keys() == {"conv_w1"}


def test_rounding_stays_within_the_bits_of_the_form() -> None:
    model = toy()
    quantised = quantize_cpu(model, ranges(model, IMAGES), heads=Structure(model).heads())
    before = constants(quantised)
    Rounding(model, IMAGES).apply(quantised)
    after = constants(quantised)
    changed = [name for name, values in after.items() if not np.array_equal(values, before[name])]
    assert changed
    for name in changed:
        assert after[name].dtype == before[name].dtype == np.int8
        assert np.abs(after[name].astype(int)).max() <= 64
        assert np.abs(after[name].astype(int) - before[name]).max() <= 16  # nearby, not another net


@pytest.mark.parametrize("half", [False, True])
def test_losses_name_the_layer_whose_input_is_clipped(half: bool) -> None:
    model = toy(half=half)
    bounds = ranges(widened(model), IMAGES)
    bounds["c"] = (0.0, bounds["c"][1] / 4)
    quantised = insert_qdq(model, bounds, keep_float=Structure(model).heads())
    found = losses(widened(model), widened(quantised), IMAGES)
    assert found.keys() == {"conv_w0", "conv_w1", "conv_w2", "conv_w3"}
    assert max(found, key=lambda name: found[name]) == "conv_w2"
    assert found["conv_w2"] > 10 * found["conv_w1"]


def test_cpu_float_layer_reads_a_float_input() -> None:
    """One weight a thousand times the others: onnxruntime, left alone, quantises them all to zero."""
    model = toy()
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    values = constants(model)["w2"].copy()
    values[0, 0, 0, 0] = 1000 * np.abs(values).max()
    weight.CopyFrom(numpy_helper.from_array(values, "w2"))
    heads = Structure(model).heads()
    quantised = quantize_cpu(model, ranges(model, IMAGES), heads=heads, keep_float=["conv_w2"])
    node = next(n for n in quantised.graph.node if n.name == "conv_w2")
    assert list(node.input[:2]) == ["c", "w2"]
    kernels, _ = Session(quantised).explain(IMAGES)
    written, _ = Session(quantised, as_written=True).explain(IMAGES)
    np.testing.assert_allclose(kernels[:, 1:], written[:, 1:], rtol=0.05, atol=0.02 * np.abs(written).max())


def test_range_holds_zero_and_clips_rare_outliers() -> None:
    counts = np.zeros(2048, np.int64)
    counts[:1024], counts[-1] = 1000, 1  # one value far out
    low, high = best_range(1.0, 5.0, counts)
    assert low == 0
    assert 2.9 < high < 4
