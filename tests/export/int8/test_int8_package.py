"""int8 and bf16 by the command a user types: what is written, what is refused, what runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from export.build_engine import main
from export.graph.ranges import Ranges
from export.int8 import write as int8
from export.package import write_graphs
from runtime import Embedder, Explainer
from runtime.errors import InputError
from runtime.package.folder import Package
from runtime.package.reasons import sentence


@pytest.fixture(scope="module")
def int8_package(masker, photographs, tmp_path_factory):
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("int8") / "int8.nemu"
    arguments = ["--masker", str(masker), "--reference", str(photographs), "--calibration", str(photographs)]
    code = main([*arguments, "--precision", "int8", "--target", "rtx-portable", "--out", str(out), "--quiet"])
    assert code == 0
    return out


def test_both_int8_forms_pass_the_gate(int8_package):
    parity = Package.open(int8_package).manifest.parity
    for name in ("onnx int8 cpu", "onnx int8 trt"):
        assert parity[name].embedding_error <= 0.1
        assert parity[name].mask_iou >= 0.9
        assert parity[name].calibration.n == 12
    assert parity["onnx int8 cpu"].speed.device
    assert not (int8_package / "model.fp16.onnx").exists()


def test_parsed_layers_are_int8_except_those_named(int8_package):
    (engine,) = Package.open(int8_package).engines()
    layers = engine.record.flags["weighted_layers"]
    parity = Package.open(int8_package).manifest.parity["onnx int8 trt"]
    assert engine.record.precision == "int8"
    assert layers["INT8"] == parity.layers - len(parity.layers_back_to_float)
    assert set(layers) == {"INT8", "HALF"}


def test_cpu_resizes_the_mask_without_empty_channels(int8_package, photographs):
    """Not in blocks of 16 channels, of which the mask is one."""
    model = int8_package / "model.int8.cpu.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(int8_package.parent / "optimised.onnx")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
    linear = [n for n in optimised.graph.node if n.op_type in ("Resize", "Upsample")]
    assert linear
    assert {n.domain for n in linear} <= {"", "ai.onnx"}  # and not the one of blocked layouts


def test_explainer_and_embedder_run_the_int8_graphs(int8_package, photographs):
    files = sorted(photographs.glob("*.png"))[:3]
    with Explainer(int8_package, backend="onnxruntime", precision="int8") as explainer:
        assert explainer.embedding_id.endswith("-int8")
        int8 = np.stack([e.embedding for e in explainer(files)])
    with Embedder(int8_package, backend="onnxruntime", precision="int8") as embedder:
        assert embedder.backend.outputs == ("embedding",)
        assert embedder.embedding_id == explainer.embedding_id
        assert np.abs(embedder(files) - int8).max() < 0.02 * np.abs(int8).max()
    with Explainer(int8_package, backend="onnxruntime") as explainer:
        fp32 = explainer(files[0]).embedding
        with pytest.raises(InputError, match="precision 'int8'"):
            Explainer(int8_package, backend=explainer.backend, precision="int8")
    assert 0 < abs(int8[0] - fp32).max() < 0.2 * abs(fp32).max()


def test_int8_form_beyond_the_gate_is_left_out(masker, photographs, tmp_path, monkeypatch, capsys):
    right = int8.trt_form

    def wrong(*arguments):
        form = right(*arguments)
        return form._replace(run=lambda *given: tuple(0 * output for output in form.run(*given)))

    monkeypatch.setattr(int8, "trt_form", wrong)
    out = tmp_path / "x.nemu"
    arguments = ["--masker", str(masker), "--calibration", str(photographs), "--precision", "int8"]
    assert main([*arguments, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "warning: onnx int8 trt is left out: embedding error" in shown.err
    assert "layers in float … " in shown.err  # no long step is silent
    assert "int8 is not in the package: embedding error" in shown.out
    manifest = Package.open(out).manifest
    assert manifest.refused.keys() == {"int8"}
    assert "with 0 of" in sentence(manifest.refused["int8"])
    assert manifest.parity.keys() == {"onnx fp32", "torch fp16", "onnx int8 cpu", "onnx fp16"}
    assert "no int8 graph: embedding error" in (out / "README.md").read_text()
    there = {file.name for file in out.glob("model*.onnx")}
    assert {"model.onnx", "model.fp16.onnx", "model.int8.cpu.onnx"} <= there
    assert "model.int8.trt.onnx" not in there


def test_bf16_is_bfloat16_inside_and_leaves_turing_out(masker, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "x.nemu"
    arguments = ["--masker", str(masker), "--precision", "bf16", "--target", "rtx", "--out", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    package = Package.open(out)
    (engine,) = package.engines()
    assert engine.record.flags["weighted_layers"].keys() == {"BF16"}
    assert "warning: no engine of rtx for 7.5: bf16: " in capsys.readouterr().err
    assert package.manifest.parity["torch bf16"].embedding_error > 0


def test_fp16_overflow_drops_only_the_tensorrt_int8_graph(masker, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        write_graphs, "measure_ranges", lambda *_: Ranges(peaks={"attn/node_MatMul (MatMul)": 2e6}, images=12)
    )
    out = tmp_path / "x.nemu"
    arguments = ["--masker", str(masker), "--calibration", str(photographs), "--precision", "int8"]
    assert main([*arguments, "--out", str(out), "--quiet"]) == 0
    manifest = Package.open(out).manifest
    assert {"model.int8.cpu.onnx", "model.bf16.onnx"} <= manifest.files.keys()
    assert not {"model.int8.trt.onnx", "model.fp16.onnx"} & manifest.files.keys()
    assert sentence(manifest.refused["int8"]).startswith("its layers in fp16: attn/node_MatMul")
    assert sentence(manifest.refused["fp16"]).startswith("attn/node_MatMul")
