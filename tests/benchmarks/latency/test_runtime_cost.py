"""What the runtime adds: the file that is written, small, and the arithmetic behind it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.latency import runtime_cost
from runtime.media.geometry import Geometry


@pytest.fixture(scope="module")
def rows(package, tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "cost.json"
    options = ["--json", str(path), "--pairs", "5", "--turns", "1", "--starts", "1"]
    assert runtime_cost.main([str(package), *options, "--backend", "onnxruntime"]) == 0
    content = json.loads(path.read_text())
    assert content["meta"]["versions"]["onnxruntime"]
    return {row["variant"]: row for row in content["rows"]}


def test_calls_and_streams_are_compared_with_the_backend(rows):
    assert {"control", "graph size", "stream", "cold start"} <= set(rows)
    for name in ("control", "graph size"):
        row = rows[name]
        assert row["n"] == 5
        for timed in ("backend", "call"):
            assert 0 < row[f"{timed}_median_ms"] <= row[f"{timed}_p95_ms"] <= row[f"{timed}_p99_ms"]
        low, high = row["overhead_ms_ci"]
        assert low <= row["overhead_ms"] <= high
        assert row["overhead_percent"] == pytest.approx(100 * row["overhead_ms"] / row["backend_median_ms"])
        assert "threads" in row["backend"]
    stream = rows["stream"]
    assert stream["stream_to_backend"] == pytest.approx(stream["stream_fps"] / stream["backend_fps"])


def test_the_cold_start_is_another_interpreter(rows, package):
    row = rows["cold start"]
    assert 0 < row["ready_s"] < row["first_explanation_s"]
    size = sum((package / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert row["model_mb"] == pytest.approx(size / 1e6)
    assert row["rss_beyond_model_mb"] == pytest.approx(row["rss_mb"] - row["model_mb"])


@pytest.mark.parametrize(("width", "crop_pct", "size"), [(48, 1.0, (64, 48)), (64, 0.95, (67, 67))])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_unresized_finds_an_image_that_is_only_cropped(width, crop_pct, size, resize):
    geometry = Geometry(height=64, width=width, resize=resize, crop_pct=crop_pct)
    assert runtime_cost.unresized(geometry) == size
    image = runtime_cost.random_image(size)
    assert np.shares_memory(geometry.fit(image)[0], image)


def test_interval_holds_the_median_and_narrows():
    differences = np.random.default_rng(1).normal(3, 1, 400)
    low, high = runtime_cost.interval(differences)
    assert low < np.median(differences) < high
    few = runtime_cost.interval(differences[:20])
    assert high - low < few[1] - few[0]
