"""The command that makes packages: what it writes, what it refuses, what it leaves behind when it fails."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from export.build_engine import main
from export.package import pack, write_graphs
from export.package.source import PHOTOGRAPHS
from runtime import Embedder, Explainer
from runtime.__main__ import main as runtime
from runtime.backends.tensorrt.library import validity
from runtime.errors import ParityError
from runtime.media.geometry import Geometry, load_image
from runtime.package.folder import Package
from tests.export.built_engine import rtx
from train.__main__ import WORTHLESS
from train.__main__ import main as train
from train.checkpoint import load_nem
from train.config import EncoderConfig
from train.encoder.zoo import load_encoder


def test_package_has_the_documented_files_and_parity(package):
    names = {p.name for p in package.iterdir()}
    assert names == {
        *("manifest.json", "README.md", "reference.npz", "model.onnx", "model.onnx.data"),
        *("model.fp16.onnx", "model.fp16.onnx.data", "model.embedding.onnx", "model.cells.onnx"),
    }
    manifest = Package.open(package).manifest
    assert set(manifest.files) == names - {"manifest.json"}
    assert set(manifest.parity) == {"onnx fp32", "torch fp16", "onnx fp16"}
    fp32, fp16 = manifest.parity["onnx fp32"], manifest.parity["torch fp16"]
    assert fp32.embedding_error <= 1e-3
    assert fp32.mask_error <= 1e-4
    assert 0 < fp16.embedding_error <= 2e-2, "computed in half precision"
    assert fp16.mask_iou >= 0.98
    assert all(p.control_failed for p in manifest.parity.values())


def test_package_holds_no_path_of_its_maker(package, photographs, weights):
    text = (package / "manifest.json").read_text() + (package / "README.md").read_text()
    assert str(photographs.parent) not in text
    assert str(weights.parent) not in text


def test_reference_images_are_the_users_only_if_named(package, masker, photographs, tmp_path, monkeypatch):
    """The working directory holds a file where onnx looks, and does not write, the weights of a graph."""
    with np.load(package / "reference.npz") as arrays:
        assert len(arrays["images"]) == len(list(PHOTOGRAPHS.glob("*.jpg")))
    (tmp_path / "model.onnx.data").write_text("mine")
    monkeypatch.chdir(tmp_path)
    build = ["--masker", str(masker), "--out", "x.nemu", "--precision", "fp32", "--quiet"]
    assert main([*build, "--reference", str(photographs)]) == 0
    with np.load("x.nemu/reference.npz") as arrays:
        assert len(arrays["images"]) == 12
    assert (tmp_path / "model.onnx.data").read_text() == "mine"
    assert (tmp_path / "x.nemu/model.onnx.data").stat().st_size > 100_000


def test_the_explainer_gives_the_encoders_own_embedding(package, masker, photographs):
    """End to end: a file through the package equals the torch encoder on the same file."""
    nem = load_nem(masker)
    file = sorted(photographs.glob("*.png"))[3]
    fitted, _ = Geometry.from_record(nem.encoder.input).fit(load_image(file))
    with torch.no_grad():
        embedding, mask = nem(nem.encoder.normalize(torch.from_numpy(fitted.copy())[None]))
    with Explainer(package, backend="onnxruntime") as explainer:
        explanation = explainer(file)
    np.testing.assert_allclose(explanation.embedding, embedding[0].numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(explanation.graph_mask, mask[0].numpy(), atol=1e-4)
    assert explanation.mask.shape == (96, 96)


@rtx
def test_rtx_engines_are_built_added_and_recognised(copy, capsys):
    command = ["--package", str(copy.path), "--target", "rtx-portable", "--quiet"]
    manifest = (copy.path / "manifest.json").read_bytes()
    assert main([*command, "--precision", "fp16"]) == 0
    assert main([*command, "--precision", "fp32"]) == 0
    assert (copy.path / "manifest.json").read_bytes() == manifest
    engines = {e.record.precision: e for e in copy.engines()}
    layers = {precision: set(e.record.flags["weighted_layers"]) for precision, e in engines.items()}
    assert layers == {"fp16": {"HALF"}, "fp32": {"FLOAT"}}
    assert engines["fp16"].record.batch == (1, 1, 8)

    assert main(command) == 1  # it is there already
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0

    assert runtime(["verify", str(copy.path)]) == 0
    assert "12 files are unchanged" in capsys.readouterr().out
    engine = engines["fp16"].path
    engine.write_bytes(bytes(4) + engine.read_bytes()[4:])
    assert runtime(["verify", str(copy.path)]) == 1
    assert engine.name in capsys.readouterr().err


@rtx
def test_embedding_only_engines_are_added_beside_others(copy, capsys):
    command = ["--package", str(copy.path), "--target", "rtx-portable"]
    assert main([*command, "--quiet"]) == 0
    assert not capsys.readouterr().out
    assert main([*command, "--embedding-only", "--batch", "1:16:32"]) == 0
    assert "fp16, embedding only" in capsys.readouterr().out
    whole, alone = sorted(copy.engines(), key=lambda e: e.record.embedding_only)
    assert alone.path.name == "rtx-fp16-b32-embedding.engine"
    assert (whole.record.outputs, alone.record.outputs) == (("embedding", "mask"), ("embedding",))
    assert alone.record.batch == (1, 16, 32)
    assert alone.record.onnx_sha256 == copy.manifest.files["model.fp16.onnx"]
    assert len(alone.read()) < len(whole.read())
    layers = [sum(e.record.flags["weighted_layers"].values()) for e in (whole, alone)]
    assert layers[1] < layers[0]
    assert "MALFORMED_ENGINE" not in validity(alone.read()).reasons
    assert runtime(["verify", str(copy.path)]) == 0
    assert "the embedding alone:" in capsys.readouterr().out


def test_embedding_only_graph_is_small_and_shares_weights(package, photographs):
    alone = onnx.load(str(package / "model.embedding.onnx"), load_external_data=False)
    assert [o.name for o in alone.graph.output] == ["embedding"]
    whole = onnx.load(str(package / "model.onnx"), load_external_data=False)
    assert 0 < len(alone.graph.node) < len(whole.graph.node)
    assert len(alone.graph.initializer) < len(whole.graph.initializer)
    data = (package / "model.onnx.data").stat().st_size
    assert (package / "model.embedding.onnx").stat().st_size < data / 2
    files = sorted(photographs.glob("*.png"))[:3]
    with Embedder(package) as embedder, Explainer(package) as explainer:
        assert embedder.backend.outputs == ("embedding",)
        expected = [e.embedding for e in explainer(files)]
        np.testing.assert_allclose(embedder(files), expected, rtol=1e-4, atol=1e-5)


def test_failed_gate_writes_nothing_but_auto_continues(masker, tmp_path, monkeypatch, capsys):
    """A half graph that is subtly wrong: its embedding is half too long."""
    original = write_graphs.run_torch

    def slightly_wrong(fused, images):
        embedding, mask = original(fused, images)
        return (embedding * 1.5 if fused.scale.dtype.itemsize == 2 else embedding), mask

    monkeypatch.setattr(write_graphs, "run_torch", slightly_wrong)
    out = tmp_path / "x.nemu"
    build = ["--masker", str(masker), "--out", str(out), "--quiet"]
    assert main([*build, "--precision", "fp16"]) == 3
    error = capsys.readouterr().err
    assert json.loads((masker.parent / "summary.json").read_text())["fault"] in error, "said at the build too"
    assert "torch fp16: embedding error" in error
    assert "--precision fp32" in error
    assert list(tmp_path.iterdir()) == []

    assert main(build) == 0  # auto goes on to float32
    assert "fp16 is left out: torch fp16: embedding error" in capsys.readouterr().err
    package = Package.open(out)
    assert package.manifest.refused.keys() == {"fp16", "bf16"}
    assert package.manifest.parity.keys() == {"onnx fp32"}
    assert not [name for name in package.manifest.files if "16" in name]
    assert "no bf16 graph: torch bf16: embedding error" in (out / "README.md").read_text()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_ctrl_c_or_a_full_disk_leaves_nothing(masker, tmp_path, monkeypatch, capsys, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(write_graphs, "run_onnx", fail)
    arguments = ["--masker", str(masker), "--out", str(tmp_path / "x.nemu"), "--quiet"]
    assert main(arguments) == (130 if failure is KeyboardInterrupt else 1)
    assert ("No space left" in capsys.readouterr().err) is (failure is not KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_existing_package_stays_until_the_new_is_complete(copy, masker, tmp_path, monkeypatch, capsys):
    before = (copy.path / "manifest.json").read_bytes()
    build = ["--masker", str(masker), "--out", str(copy.path), "--quiet"]
    assert main(build) == 1
    assert "--force" in capsys.readouterr().err

    def refuse(*_, **__):
        raise ParityError("no", expected="", cure="")

    with monkeypatch.context() as patch:
        patch.setattr(write_graphs, "measure_ranges", refuse)
        assert main([*build, "--force", "--precision", "fp16"]) == 3
    assert (copy.path / "manifest.json").read_bytes() == before
    assert main([*build, "--force", "--precision", "fp32"]) == 0
    assert Package.open(copy.path).manifest.parity.keys() == {"onnx fp32"}
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.nemu"]


OWN = """
import torch

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, x):
        shallow = self.stem(x).relu()
        deep = self.body(shallow).relu()
        return deep.mean((2, 3)), [shallow, deep]
"""


def test_own_encoder_is_trained_built_and_explained(photographs, tmp_path, monkeypatch):
    (tmp_path / "my_encoder.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    options = [
        *("--encoder", "my_encoder:Mine", "--image-size", "32", "48", "--resize", "letterbox"),
        *("--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"),
        *("--data", str(photographs), "--out", "run", "--steps", "2", "--batch-size", "4", "--quiet"),
    ]
    assert train(options) in (0, WORTHLESS)
    assert main(["--masker", "run/masker.safetensors", "--out", "mine.nemu", "--quiet"]) == 0
    with Explainer("mine.nemu") as explainer:
        assert explainer(photographs / "00.png").embedding.shape == (16,)
        assert explainer.embedding_id.startswith("Mine-own-")


def test_force_replaces_packages_and_nothing_else(masker, tmp_path, capsys):
    out = tmp_path / "photographs"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"precious")
    assert main(["--masker", str(masker), "--out", str(out), "--quiet", "--force"]) == 1
    assert (out / "holiday.jpg").read_bytes() == b"precious"


def test_the_embedding_id_follows_weights_and_preprocessing(masker, weights):
    def identity(**options):
        fields = {"encoder": "timm/test_resnet", "weights": str(weights), "image_size": (64, 64), **options}
        return pack.embedding_id(load_encoder(EncoderConfig(**fields)))

    assert identity() == pack.embedding_id(load_nem(masker).encoder)
    others = identity(resize="squash"), identity(embedding="head"), identity(image_size=(64, 96))
    assert len({identity(), *others}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masker", "m", "--out", "x", "--embedding-only"], "--embedding-only goes with --package"),
        (["--masker", "m", "--out", "x", "--toward"], "--toward goes with --package"),
        (["--package", "x", "--embedding-only", "--toward"], "two forms"),
        (["--package", "x", "--evaluate", "held"], "--evaluate go with --masker"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masker", "nowhere.safetensors", "--out", "x"], "no such file"),
        (["--package", "nowhere.nemu", "--target", "rtx"], "holds no manifest.json"),
        (["--package", "nowhere.nemu", "--target", "rtx-sm90"], "--target tensorrt"),
        (["--package", "nowhere.nemu", "--target", "jetpack5"], "upgrade to JetPack 6.1"),
        *(
            (["--masker", "m", "--out", "x", "--batch", batch], "MIN <= OPT <= MAX")
            for batch in ("8:1:1", "0:1:2", "2:1:4", "1:4:2")
        ),
        (["--masker", "m", "--out", "x", "--batch", "many"], "MIN:OPT:MAX"),
        (["--masker", "missing too", "--out", "x", "--target", "tensorrt"], "tensorrt"),
    ],
)
def test_bad_requests_are_explained(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_encoders_weights_are_not_a_masker(weights, tmp_path, capsys):
    assert main(["--masker", str(weights), "--out", str(tmp_path / "x.nemu")]) == 1
    assert "not an encoder's weights" in capsys.readouterr().err
