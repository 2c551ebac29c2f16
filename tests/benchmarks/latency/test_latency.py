"""A package's latency: every variant in one run, and what the peers compute."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from benchmarks.common.onnx_sessions import encoder_graph, fused, fused_graph, random_encoder, run, session
from benchmarks.latency.__main__ import main
from benchmarks.latency.peers import AuthorsWay, openvino_call
from benchmarks.pages.tables import latency


@pytest.fixture(scope="module")
def encoder():
    return random_encoder("test_resnet", 64)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


def test_the_encoder_alone_is_the_same_encoder(encoder, images):
    whole = fused_graph(encoder, "lateral")
    alone = encoder_graph(whole)
    assert [o.name for o in alone.graph.output] == ["embedding"]
    assert len(alone.graph.node) < len(whole.graph.node)
    onnx.checker.check_model(alone)
    (embedding,) = run(session(alone, threads=1), images)()
    np.testing.assert_array_equal(embedding, run(session(whole, threads=1), images)()[0])


def test_authors_way_runs_a_second_pass(encoder, images):
    module = fused(encoder, "unet")
    passes = []
    hook = module.nem.encoder.register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        twice = AuthorsWay(module)(torch.from_numpy(images))
        assert len(passes) == 2
        once = module(torch.from_numpy(images))
    hook.remove()
    assert len(passes) == 3
    for a, b in zip(twice, once, strict=True):
        torch.testing.assert_close(a, b)


def test_openvino_runs_the_same_graph(encoder, images):
    pytest.importorskip("openvino")
    model = fused_graph(encoder, "lateral")
    ours = run(session(model, threads=1), images)()
    for a, b in zip(openvino_call(model, images, threads=1)().values(), ours, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_every_row_says_what_it_is(package, tmp_path):
    out = tmp_path / "latency.json"
    options = ["--json", str(out), "--batch", "1", "2", "--rounds", "5", "--seconds", "0.1", "--no-peers"]
    assert main([str(package), *options]) == 0
    result = json.loads(out.read_text())
    graphs = {(r["batch"], r["variant"]) for r in result["rows"] if r["group"].startswith("graphs")}
    assert graphs >= {(b, v) for b in (1, 2) for v in ("encoder", "control", "fused")}
    for row in result["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["median_ms"])
        assert (row["n"], row["ratio_to_encoder"], row["ratio_ci"]) == (5, None, None)  # too few for a ratio
        assert {"backend", "precision", "model", "image_size", "device", "threads"} <= row.keys()
    ends = {r["variant"]: r for r in result["rows"] if "end to end" in r["group"]}
    assert set(ends) == {"fused", "from_array", "from_jpeg"}
    assert 30 < ends["fused"]["peak_memory_mb"] < 300  # of its own process, not of this one
    skipped = {s["what"] for s in result["skipped"]}
    assert {"onnxruntime int8", "onnxruntime fp16"} <= skipped
    assert latency(result, groups=["graphs, batch 1"]).count("\n") == 2 + len(
        [r for r in result["rows"] if r["group"] == "graphs, batch 1"]
    )


def test_missing_package_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path / "no.nemu"), "--json", str(tmp_path / "x.json")]) == 1
    assert "no.nemu" in capsys.readouterr().err
