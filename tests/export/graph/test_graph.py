"""The exported graph keeps its contract, for a CNN and for a ViT."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.graph import from_torch
from export.graph.fuse import Fused, run_torch
from export.graph.gate import run_onnx
from export.graph.session import copied
from runtime.errors import ExportError
from train.config import MASKERS, EncoderConfig
from train.encoder.zoo import load_encoder
from train.nem import NEM

BOTH = ("lateral", "unet")


def nem_of(tmp_path, name, *, size=(64, 64), **options):
    torch.manual_seed(0)
    weights = tmp_path / f"{name}.safetensors"
    save_file(timm.create_model(name).state_dict(), weights)
    encoder = load_encoder(EncoderConfig(encoder=f"timm/{name}", weights=str(weights), image_size=size))
    return NEM.untrained(encoder, **options).eval()


def photographs(n, height, width):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"masker": "unet", "image_skip": True}),
        *((name, {"masker": masker}) for masker in BOTH for name in ("test_resnet", "test_vit")),
        *(("test_convnext", {"masker": masker, "size": (64, 96)}) for masker in BOTH),
        *(("test_resnet", {"masker": masker, "size": (50, 70)}) for masker in MASKERS),  # odd on the way down
        ("test_resnet", {"size": (51, 71)}),  # the mask is no multiple of the level where its logit is taken
    ],
)
def test_onnx_gives_what_torch_gives(tmp_path, name, options):
    nem = nem_of(tmp_path, name, **options)
    size = nem.encoder.input
    images = photographs(3, size.height, size.width)
    fused = Fused(nem, precision="fp32")
    model, how = from_torch.simplify(from_torch.export_onnx(fused, height=size.height, width=size.width))
    from_torch.lint(model)
    from_torch.save(model, tmp_path / "model.onnx")
    assert how.startswith("simplified:")
    assert (tmp_path / "model.onnx.data").stat().st_size > 10 * (tmp_path / "model.onnx").stat().st_size

    embedding, mask = run_torch(fused, images)
    from_onnx = run_onnx(tmp_path / "model.onnx", images)
    np.testing.assert_allclose(from_onnx[0], embedding, atol=1e-4 * np.abs(embedding).max())
    np.testing.assert_allclose(from_onnx[1], mask, atol=1e-4)
    assert embedding.std() > 0
    assert mask.shape == images.shape[:3]


def test_boundary_is_uint8_and_float_with_half_inside(tmp_path):
    fused = Fused(nem_of(tmp_path, "test_resnet"), precision="fp16")
    model = from_torch.export_onnx(fused, height=64, width=64)
    from_torch.lint(model)
    (image,), outputs = model.graph.input, model.graph.output
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert [d.dim_value for d in image.type.tensor_type.shape.dim][1:] == [64, 64, 3]
    assert image.type.tensor_type.shape.dim[0].dim_param
    types = {o.name: o.type.tensor_type.elem_type for o in outputs}
    assert types == {"embedding": TensorProto.FLOAT, "mask": TensorProto.FLOAT}
    convolved = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    assert {t.data_type for t in model.graph.initializer if t.name in convolved} == {TensorProto.FLOAT16}


def test_a_vit_keeps_layer_normalisation_as_one_op(tmp_path):
    model = from_torch.export_onnx(Fused(nem_of(tmp_path, "test_vit"), precision="fp16"), height=64, width=64)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.count("LayerNormalization") >= 12  # two in each of six blocks
    assert "Loop" not in kinds
    assert "If" not in kinds


@pytest.mark.parametrize("masker", MASKERS)
def test_no_shape_arithmetic_survives_in_a_cnn(tmp_path, masker):
    nem = nem_of(tmp_path, "test_resnet", masker=masker)
    model = from_torch.export_onnx(Fused(nem, precision="fp32"), height=64, width=64)
    kinds = {n.op_type for n in from_torch.simplify(model)[0].graph.node}
    assert not kinds & {"Shape", "Gather", "Range", "Slice"}


def test_fusing_leaves_the_network_as_it_was(tmp_path):
    nem = nem_of(tmp_path, "test_resnet")
    Fused(nem, precision="fp16")
    assert {p.dtype for p in nem.parameters()} == {torch.float32}


def test_normalisation_is_inside(tmp_path):
    nem = nem_of(tmp_path, "test_resnet")
    images = photographs(2, 64, 64)
    with torch.no_grad():
        expected = nem(nem.encoder.normalize(torch.from_numpy(images)))
    got = run_torch(Fused(nem, precision="fp32"), images)
    np.testing.assert_allclose(got[0], expected[0].numpy(), rtol=1e-4, atol=1e-5)


def small(nodes, *, opset=from_torch.OPSETS["fp32"], outputs=("embedding", "mask")):
    """A graph with the right boundary around the given nodes, which make `x` from `image`."""
    value = helper.make_tensor_value_info
    ends = [
        helper.make_node("Cast", ["x"], [name], to=TensorProto.FLOAT, name=f"to_{name}") for name in outputs
    ]
    body = helper.make_graph(
        [*nodes, *ends],
        "small",
        [value("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


CAST = helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT, name="cast")


@pytest.mark.parametrize(
    ("nodes", "options", "fault"),
    [
        (
            [helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2], name="early")],
            {},
            "cast first: Transpose early",
        ),
        (
            [CAST, helper.make_node("Resize", ["f", "", "s"], ["x"], antialias=1, name="soft")],
            {},
            "antialiased Resize: Resize soft",
        ),
        (
            [
                CAST,
                helper.make_node("ReduceMean", ["f"], ["m"], name="mean"),
                helper.make_node("Sub", ["f", "m"], ["d"], name="deviation"),
                helper.make_node("Pow", ["d", "two"], ["p"], name="square"),
                helper.make_node("ReduceMean", ["p"], ["x"], name="variance"),
            ],
            {},
            "LayerNorm in pieces: ReduceMean variance",
        ),
        ([helper.make_node("Loop", ["", "", "image"], ["x"], name="again")], {}, "Loop again"),
        ([helper.make_node("Identity", ["image"], ["x"])], {"opset": 20}, "opset 20"),
        ([helper.make_node("Identity", ["image"], ["x"])], {"outputs": ("mask", "embedding")}, "outputs"),
    ],
)
def test_lint_names_what_would_not_run(nodes, options, fault):
    """`test_rules.py` has the other faults of a graph."""
    with pytest.raises(ExportError) as caught:
        from_torch.lint(small(nodes, **options))
    assert fault in str(caught.value)


def test_lint_leaves_an_rms_norm_alone():
    square = helper.make_node("Pow", ["f", "two"], ["p"])
    assert (
        list(from_torch._faults(small([CAST, square, helper.make_node("ReduceMean", ["p"], ["x"])]), 18))
        == []
    )


def test_lint_accepts_the_contract():
    model = small([CAST, helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2])])
    assert list(from_torch._faults(model, 18)) == []


def test_simplifier_that_changes_outputs_is_rejected(tmp_path, monkeypatch):
    import onnxsim

    fused = Fused(nem_of(tmp_path, "test_resnet"), precision="fp32")
    model = from_torch.export_onnx(fused, height=64, width=64)

    def wrong(given):
        changed = copied(given)
        for tensor in changed.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 4:
                doubled = numpy_helper.to_array(tensor) * 2
                tensor.CopyFrom(numpy_helper.from_array(doubled, tensor.name))
        return changed, True

    monkeypatch.setattr(onnxsim, "simplify", wrong)
    kept, how = from_torch.simplify(model)
    assert kept is model
    assert how.startswith("outputs-moved:")
