"""One ONNX file out of a package: float NCHW, embedding alone, and the DeepStream configuration."""

from __future__ import annotations

import configparser

import numpy as np
import onnx
import onnxruntime
import pytest

from export.convert import main
from export.graph import variants
from export.graph.variants import drop_mask, float_nchw
from runtime.errors import ExportError, ParityError
from runtime.package.folder import Package
from runtime.package.reference import load_reference
from tests.export.graph.test_graph import small


def outputs(path, images) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert image.type == ("tensor(uint8)" if images.dtype == np.uint8 else "tensor(float)")
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


@pytest.fixture(scope="module")
def reference(package):
    return load_reference(Package.open(package))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_planar_images_give_the_same(package, reference, tmp_path, precision):
    out = tmp_path / "x.onnx"
    command = [str(package), "--out", str(out), "--format", "onnx", "--precision", precision]
    assert main([*command, "--float-nchw"]) == 0
    given = outputs(out, reference.images.transpose(0, 3, 1, 2).astype(np.float32))
    limit = {"fp32": 1e-4, "fp16": 3e-2}[precision]
    assert np.abs(given["embedding"] - reference.embedding).max() < limit
    assert np.abs(given["mask"] - reference.mask).max() < limit


def test_the_embedding_alone_leaves_the_decoder_behind(package, reference, tmp_path):
    whole, alone = (tmp_path / name for name in ("whole.onnx", "alone.onnx"))
    assert main([str(package), "--format", "onnx", "--out", str(whole)]) == 0
    assert main([str(package), "--format", "onnx", "--out", str(alone), "--embedding-only"]) == 0
    given = outputs(alone, reference.images)
    assert set(given) == {"embedding"}
    assert np.abs(given["embedding"] - reference.embedding).max() < 1e-4
    nodes = [{n.op_type for n in onnx.load(path).graph.node} for path in (whole, alone)]
    assert "Resize" in nodes[0] - nodes[1]
    assert alone.stat().st_size < whole.stat().st_size
    onnx.checker.check_model(str(alone), full_check=True)


def test_the_deepstream_configuration_fits_the_file(package, tmp_path, capsys):
    out = tmp_path / "x.onnx"
    assert main([str(package), "--format", "deepstream", "--out", str(out)]) == 0
    config = configparser.ConfigParser()
    config.read(tmp_path / "config_infer_x.txt")
    held = config["property"]
    assert held["onnx-file"] == "x.onnx"
    assert held["infer-dims"] == "3;64;64"
    assert (held["network-type"], held["output-tensor-meta"]) == ("100", "1")
    (image,) = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).get_inputs()
    assert image.shape[1:] == [3, 64, 64]
    assert "config_infer_x.txt" in capsys.readouterr().out.splitlines()[-1]
    assert main([str(package), "--format", "deepstream", "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err


def test_file_with_wrong_outputs_is_not_written(package, tmp_path, monkeypatch):
    def wrong(model):
        turned = float_nchw(model)
        next(n for n in turned.graph.node if n.op_type == "Mul").op_type = "Div"
        return turned

    monkeypatch.setattr(variants, "float_nchw", wrong)
    with pytest.raises(ParityError):
        variants.write(Package.open(package), tmp_path / "x.onnx", nchw=True)
    assert not list(tmp_path.iterdir())


def test_another_graph_is_refused():
    model = small([onnx.helper.make_node("Identity", ["image"], ["x"])])
    with pytest.raises(ExportError, match="does not begin"):
        float_nchw(model)
    assert [o.name for o in drop_mask(model).graph.output] == ["embedding"]


def test_a_model_repository_and_wrong_usage(package, tmp_path, capsys):
    assert main([str(package), "--format", "triton", "--out", str(tmp_path / "models")]) == 0
    assert (tmp_path / "models/tiny/config.pbtxt").is_file()
    assert main([str(package), "--format", "triton", "--out", str(tmp_path / "models")]) == 1
    for wrong in ("triton --float-nchw", "deepstream --embedding-only", "triton --precision fp16"):
        with pytest.raises(SystemExit) as stopped:
            main([str(package), "--out", str(tmp_path / "x"), "--format", *wrong.split()])
        assert stopped.value.code == 2
