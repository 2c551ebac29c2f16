"""What fp16 cannot hold is found wherever it is computed, named, and built in another precision."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from export.build_engine import main
from export.graph.ranges import measure_ranges
from export.graph.session import Session, widened
from runtime.errors import ExportError, ParityError
from runtime.package.folder import Package
from runtime.package.reasons import sentence
from train.__main__ import WORTHLESS
from train.__main__ import main as train


def half_graph(largest: float) -> onnx.ModelProto:
    """The image's mean times a number that is squared on the way and divided again."""
    root = np.float16(np.sqrt(largest / 255))
    scale = helper.make_tensor("scale", TensorProto.FLOAT16, [], [root])
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], "cast", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "scale"], ["once"], "first"),
        helper.make_node("Mul", ["once", "scale"], ["twice"], "second"),
        helper.make_node("Div", ["twice", "scale"], ["back"], "back"),
        helper.make_node("Cast", ["back"], ["embedding"], "widen", to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4, 4, 3])
    graph = helper.make_graph(nodes, "g", [image], [out], [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


WHITE = np.full((1, 4, 4, 3), 255, np.uint8)


def test_every_half_tensor_is_measured_and_nothing_else():
    ranges = measure_ranges(half_graph(1000.0), WHITE)
    assert list(ranges.peaks) == ["second (Mul)", "first (Mul)", "back (Div)", "cast (Cast)"]
    assert ranges.peaks["second (Mul)"] == pytest.approx(1000, rel=0.01)
    assert (ranges.beyond(), ranges.near()) == ({}, {})
    ranges.check()


def test_the_largest_of_all_images_counts():
    dark = np.zeros_like(WHITE)
    assert measure_ranges(half_graph(1000.0), dark).peaks["second (Mul)"] == 0
    for sets in ((np.concatenate([dark, WHITE]),), (dark, WHITE), (WHITE, dark)):
        ranges = measure_ranges(half_graph(1000.0), *sets)
        assert ranges.images == 2
        assert ranges.peaks["second (Mul)"] == pytest.approx(1000, rel=0.01)


def test_values_near_the_limit_are_named_beyond_refused():
    near = measure_ranges(half_graph(40000.0), WHITE)
    assert list(near.near()) == ["second (Mul)"]
    near.check(careful=False)
    with pytest.raises(ParityError, match="other images may reach 4 times as far"):
        near.check()
    beyond = measure_ranges(half_graph(145000.0), WHITE)
    with pytest.raises(ParityError, match=r"second \(Mul\) reaches 1\.45e\+05") as caught:
        beyond.check()
    assert "bf16" in caught.value.cure
    assert json.loads(json.dumps(beyond.to_json(), allow_nan=False))["largest"].keys() == {"second (Mul)"}


def test_weights_that_rounding_made_infinite_are_refused():
    model = half_graph(1000.0)
    model.graph.initializer[0].CopyFrom(helper.make_tensor("scale", TensorProto.FLOAT16, [], [np.inf]))
    with pytest.raises(ParityError, match="weight scale is not finite"):
        measure_ranges(model, WHITE)


def test_float32_parts_of_half_graphs_are_not_judged():
    model = half_graph(1000.0)
    model.graph.node.pop()
    island = [
        helper.make_node("Cast", ["back"], ["wide"], "out", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "wide"], ["square"], "square"),
        helper.make_node("Mul", ["square", "square"], ["embedding"], "fourth"),
    ]
    model.graph.node.extend(island)
    ranges = measure_ranges(model, WHITE)
    assert float(Session(widened(model))(["embedding"], WHITE)[0].max()) > 65504
    assert ranges.beyond() == {}


def looks_at_one_token(name: str, size: int) -> torch.nn.Module:
    """A ViT whose first attention is all on the class token, by a margin and with logits beyond fp16.

    The class token is large along one direction and every patch is a little along it; keys and queries
    measure only that direction.  No module's own output leaves fp16.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=size)
    attention = model.blocks[0].attn
    width = model.embed_dim
    with torch.no_grad():
        model.cls_token.zero_()[..., 0] = 50.0
        model.patch_embed.proj.bias[0] += 2.0
        attention.qkv.weight[: 2 * width] = 0
        attention.qkv.weight[:width, 0] = 150.0
        attention.qkv.weight[width : 2 * width, 0] = 15.0
    return model


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_vit", 160, []),
        pytest.param("vit_small_patch16_dinov3", 64, ["--no-simplify"], marks=pytest.mark.slow),
    ],
)
def test_overflowing_attention_is_named_and_built_in_bf16(name, size, options, photographs, tmp_path):
    model = looks_at_one_token(name, size)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "vit.safetensors")
    leaves = {}
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _m, _i, out, path=path: leaves.update({path: float(out.abs().max())})
            )
    with torch.inference_mode():
        assert torch.isfinite(model.eval()(torch.rand(2, 3, size, size))).all()
    assert 1000 < max(leaves.values()) < 65504
    run = ["--encoder", f"timm/{name}", "--weights", str(tmp_path / "vit.safetensors")]
    run += ["--image-size", str(size), "--data", str(photographs), "--out", str(tmp_path / "run")]
    assert train([*run, "--steps", "2", "--batch-size", "4", "--no-toward", "--quiet"]) in (0, WORTHLESS)
    build = ["--masker", str(tmp_path / "run/masker.safetensors"), "--out", str(tmp_path / "auto.nemu")]
    assert main([*build, "--target", "rtx", "--quiet", *options]) == 0
    package = Package.open(tmp_path / "auto.nemu")
    assert package.manifest.refused["fp16"]["code"] == "range"
    assert "blocks.0.attn/" in sentence(package.manifest.refused["fp16"])
    assert set(package.manifest.files) & {"model.fp16.onnx", "model.bf16.onnx"} == {"model.bf16.onnx"}
    assert package.manifest.parity.keys() == {"onnx fp32", "torch bf16", "onnx bf16"}
    (engine,) = package.engines()
    assert (engine.record.precision, engine.record.compute_capability) == ("bf16", "portable")
    (left_out,) = package.manifest.left_out.items()
    assert left_out[0] == "rtx for 7.5"
    for reason in ("fp16: ", "blocks.0.attn/", "bf16: ", "fp32: "):
        assert reason in sentence(left_out[1])
    assert str(tmp_path) not in str(left_out[1])
    card = (tmp_path / "auto.nemu" / "README.md").read_text()
    assert "no engine of rtx for 7.5" in card
    assert "no fp16 graph" in card


def test_tensor_of_unknown_type_is_an_error():
    model = half_graph(1000.0)
    model.graph.node[1].domain = "somebody.else"
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    with pytest.raises(ExportError, match="no type is known of .* once"):
        measure_ranges(model, WHITE)
