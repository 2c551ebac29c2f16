"""The measurements of indexes, small."""

from __future__ import annotations

import json

import pytest

from benchmarks.latency import index_query
from benchmarks.quality import canary, mask_code


def test_how_near_mask_codes_are(package, photographs, tmp_path, capsys):
    mask_code.main([str(package), "--images", str(photographs), "--json", str(tmp_path / "out.json")])
    content = json.loads((tmp_path / "out.json").read_text())
    (row,) = content["rows"]
    assert (row["n"], row["grid"]) == (12, [64, 64])
    assert row["iou_least"] <= row["iou_mean"] <= 1
    assert row["mean_difference"] <= row["largest_mean_difference"] < 0.05
    assert row["bytes_mean"] <= row["bytes_most"] <= 1000
    assert content["meta"]["command"]


def test_what_a_query_costs(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(index_query, "STORES", {"parquet": index_query.STORES["parquet"]})
    index_query.main(
        ["--rows", "30", "--dimension", "8", "--queries", "3", "--json", str(tmp_path / "out.json")]
    )
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["rows"], row["dimension"], row["n"], row["k"]) == (30, 8, 3, 10)
    assert 0 < row["median_ms"] <= row["p95_ms"]


def test_what_the_canary_catches(package, photographs, tmp_path):
    pytest.importorskip("pyarrow")
    canary.main([str(package), "--images", str(photographs), "--json", str(tmp_path / "out.json")])
    rows = {row["changed"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows["unchanged"]["holds"]
    assert rows["unchanged"]["embedding_error"] == 0
    assert len(rows) == 4  # the package is resized in one of the two ways already
    assert not any(row["holds"] for name, row in rows.items() if name != "unchanged")
    assert rows["fp16"]["old_id"] != rows["fp16"]["new_id"]
