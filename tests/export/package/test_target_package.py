"""A package whose masker takes targets: its graphs, its reference, and what it says of itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from export.build_engine import main
from export.graph.session import Session
from export.package import write_graphs
from export.package.measure import measure_target
from runtime import Explainer
from runtime.__main__ import main as runtime
from runtime.level import kept_by, share_for
from runtime.media.sources import find_images
from runtime.package.folder import REFERENCE, Package
from runtime.package.manifest import Manifest
from train.__main__ import WORTHLESS
from train.__main__ import main as train
from train.checkpoint import load_nem


@pytest.fixture(scope="module")
def asking(train_arguments, tmp_path_factory):
    """A masker that takes targets, after three steps."""
    out = tmp_path_factory.mktemp("asking") / "run"
    assert train([*train_arguments, "--toward", "--steps", "3", "--out", str(out)]) in (0, WORTHLESS)
    return out / "masker.safetensors"


@pytest.fixture(scope="module")
def asked(asking, tmp_path_factory):
    """Its package, fp32 and fp16, without engines."""
    out = tmp_path_factory.mktemp("asked") / "asked.nemu"
    assert main(["--masker", str(asking), "--out", str(out), "--quiet"]) == 0
    return out


def test_target_graphs_share_the_weights_of_plain_graphs(asked):
    manifest = Package.open(asked).manifest
    for plain in ("model.onnx", "model.fp16.onnx"):
        model = onnx.load(str(asked / plain.replace(".onnx", ".toward.onnx")), load_external_data=False)
        assert [i.name for i in model.graph.input] == ["image", "toward"]
        assert [o.name for o in model.graph.output] == ["embedding", "mask"]
        one = onnx.load(str(asked / plain), load_external_data=False)
        assert [i.name for i in one.graph.input] == ["image"]
        shared = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert shared == {f"{plain}.data"}
    assert {"onnx fp32 toward", "onnx fp16 toward", "torch fp16 toward"} <= set(manifest.parity)
    assert (asked / "model.toward.onnx").stat().st_size < (asked / "model.onnx.data").stat().st_size
    with np.load(asked / REFERENCE) as arrays:
        assert arrays["toward"].shape == arrays["embedding"].shape
        assert not np.allclose(arrays["toward_mask"], arrays["mask"], atol=1e-3)


def test_the_explainer_gives_the_masks_that_torch_gives(asked, asking, photographs):
    pictures = find_images(photographs)[:2]
    nem = load_nem(asking)
    with Explainer(asked) as explainer:
        one, other = explainer(pictures)
        found = explainer(pictures[0], toward=other)
        itself = explainer(pictures[0], toward=np.zeros_like(other.embedding))
        fitted = explainer._prepare(pictures[0]).fitted
    x = nem.encoder.normalize(torch.from_numpy(fitted[None].copy()))
    with torch.inference_mode():
        embedding, mask = nem(x, torch.from_numpy(other.embedding[None]))
    np.testing.assert_allclose(found.graph_mask, mask[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.embedding, embedding[0].numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(itself.graph_mask, one.graph_mask, atol=1e-5)
    assert not np.allclose(found.graph_mask, one.graph_mask, atol=1e-3)


def test_verify_runs_the_targets_too(asked, capsys):
    assert runtime(["verify", str(asked), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["toward"]["mask_error"] <= 1e-4
    assert found["toward"]["target_effect"] > 1e-3


def test_half_graph_failing_with_targets_is_left_out(asking, tmp_path, monkeypatch, capsys):
    original = write_graphs.run_torch

    def wrong(fused, images, toward=None):
        embedding, mask = original(fused, images, toward)
        half = fused.scale.dtype == torch.float16 and toward is not None
        return embedding, (1 - mask if half else mask)

    monkeypatch.setattr(write_graphs, "run_torch", wrong)
    out = tmp_path / "x.nemu"
    assert main(["--masker", str(asking), "--out", str(out), "--quiet"]) == 0
    manifest = Package.open(out).manifest
    assert "model.fp16.onnx" in manifest.files
    assert "model.fp16.toward.onnx" not in manifest.files
    assert "fp16 toward targets" in manifest.refused
    assert "fp16 toward targets is left out" in capsys.readouterr().err


def test_target_measures_survive_the_manifest(asked):
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    images = (images.astype(float) / 8 + np.arange(9)[:, None, None, None] * 20).astype(np.uint8)
    graphs = (Session(asked / f"model.{name}.onnx") for name in ("toward", "embedding"))
    record = measure_target(*graphs, images, mean=(0.5, 0.5, 0.5), source="toys")
    assert record.n == 9
    assert record.measured.shown.std > 0
    assert record.level.kept[-1] == pytest.approx(1)
    assert kept_by(record.level, share_for(record.level, 0.7)) == pytest.approx(0.7, abs=1e-6)
    manifest = Package.open(asked).manifest
    again = type(manifest)(**{**vars(manifest), "target": record})
    assert Manifest.from_json(again.to_json(), source="a test").target == record
