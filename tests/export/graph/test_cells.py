"""The graph of local features: the encoder's own, pooled, with the weights of the whole graph."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.graph import cells as cells_module
from export.graph.cells import chosen, pooled, write_cells
from export.graph.fuse import Fused
from export.package import write_graphs
from runtime import Explainer, Package, fit_bank
from runtime.errors import ExportError
from runtime.package.reference import load_reference
from train.checkpoint import load_nem


@pytest.fixture(scope="module")
def nem(masker, weights):
    return load_nem(masker, weights=str(weights))


def test_cells_graph_gives_embedding_and_pooled_features(package, nem):
    opened = Package.open(package)
    session = onnxruntime.InferenceSession(opened.file("model.cells.onnx"))
    assert [o.name for o in session.get_outputs()] == ["embedding", "cells"]
    reference = load_reference(opened)
    embedding, cells = session.run(None, {"image": reference.images})
    np.testing.assert_allclose(embedding, reference.embedding, atol=1e-4)
    fused = Fused(nem, precision="fp32")
    with torch.no_grad():
        pyramid = fused.nem.encoder(fused.prepare(torch.from_numpy(reference.images)))[1]
    levels = [pyramid[i] for i in chosen(nem.encoder)]
    sizes = [tuple(level.shape[2:]) for level in levels]
    assert sizes == [(16, 16), (8, 8), (4, 4)]
    first = levels[-1][:, :, :2, :2].mean((2, 3)).numpy()  # the corner cell and the three beside it
    np.testing.assert_allclose(cells[:, -first.shape[1] :, 0, 0], first, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cells, pooled(levels).numpy(), rtol=1e-3, atol=1e-4)


def test_cells_graph_has_no_weights_and_no_mask(package):
    model = onnx.load(package / "model.cells.onnx", load_external_data=False)
    places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == {"model.onnx.data"}
    assert not any(node.name.startswith("masker") for node in model.graph.node)


def test_uneven_maps_are_resampled_like_torch():
    levels = [torch.randn(1, 2, 9, 9), torch.randn(1, 3, 4, 4)]
    whole = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        two_maps (float[1, 2, 9, 9] x0, float[1, 3, 4, 4] x1) => (float embedding, float mask) {
            embedding = Identity(x0)
            mask = Identity(x0)
        }""")
    model = cells_module._with_cells(whole, ["x0", "x1"], levels)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (given,) = session.run(["cells"], {f"x{i}": level.numpy() for i, level in enumerate(levels)})
    np.testing.assert_allclose(given, pooled(levels).numpy(), atol=1e-5)


def test_build_goes_on_without_a_missing_feature_map(package, nem, tmp_path, monkeypatch, capsys):
    reference = load_reference(Package.open(package))
    with monkeypatch.context() as changed:
        changed.setattr("export.graph.cells.TOLERANCE", -1.0)
        with pytest.raises(ExportError, match="no tensor of the graph"):
            write_cells(package / "model.onnx", "none.onnx", nem, reference)
    assert not (package / "none.onnx").exists()

    def fails(*_):
        raise ExportError("no map", expected="one", cure="none")

    monkeypatch.setattr(write_graphs, "write_cells", fails)
    job = write_graphs.Job(tmp_path, nem, reference, None, True, lambda _: nullcontext())
    write_graphs._write_cells(job)
    assert job.refused == {"cells": {"code": "error", "said": "no map"}}
    assert "model.cells.onnx is left out: no map" in capsys.readouterr().err


def test_bank_works_with_a_built_package(package):
    opened = Package.open(package)
    images = np.random.default_rng(0).integers(80, 130, (9, 64, 64, 3), dtype=np.uint8)
    bank, skipped = fit_bank(opened, [(str(i), image) for i, image in enumerate(images[:8])])
    strange = images[8].copy()
    strange[16:48, 32:] = (255, 0, 0)
    with Explainer(opened, backend="onnxruntime") as explainer:
        watch = explainer.against(bank)
        assert not skipped
        assert watch(strange).score > watch(images[8]).score
