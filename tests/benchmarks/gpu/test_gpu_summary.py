"""The goals of gpu_check: which figures are shown, and what they were measured on."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.summary import goals, summary

GRAPH = {"batch": 1, "model": "m", "image_size": 224, "ratio_to_encoder": 1.04, "ratio_ci": [1.03, 1.05]}
GRAPH |= {"median_ms": 0.3, "wall_median_ms": 0.4, "wall_p99_ms": 0.44, "precision": "fp16"}
TORCH = [
    {**GRAPH, "backend": "torch cuda graph", "variant": "fused", "ratio_to_encoder": 1.5},
    {**GRAPH, "backend": "torch eager", "variant": "authors_way", "median_ms": 3.0},
]
CHECK = {
    "check": "what the runtime adds",
    "passed": True,
    "detail": "",
    "run_adds_us": 9,
    "run_device_adds_us": 60,
}


def measured(results: dict[str, Any]) -> list[str]:
    return [goal[2] for goal in goals(results)]


def test_goals_use_the_engines_if_they_ran() -> None:
    engines = [
        {**GRAPH, "backend": "rtx 1.7, cuda graph", "variant": "fused"},
        {**GRAPH, "backend": "overhead, x", "variant": "bare"},
        {**GRAPH, "backend": "overhead, x", "variant": "explainer.run_device", "wall_median_ms": 0.425},
    ]
    results = {"engines": {"rows": engines}, "torch": {"rows": TORCH}, "cuda": {"checks": [CHECK]}}
    assert measured(results)[:4] == [
        "1.040 [1.030, 1.050] (an engine)",
        "1.100 (an engine)",
        "25.0 µs (run_device, an engine)",
        "10.0 times (an engine)",
    ]
    engines[0]["model"] = "another"
    assert measured(results)[3] == "not measured"


def test_figures_without_an_engine_say_so() -> None:
    found = measured({"torch": {"rows": TORCH}, "cuda": {"checks": [CHECK]}})
    assert found[0] == "1.500 [1.030, 1.050] (PyTorch's CUDA graph, no engine)"
    assert found[1] == "1.100 (PyTorch's CUDA graph, no engine)"
    assert found[2] == "run 9.0 µs, run_device 60.0 µs (a stand-in engine of our own kernel)"
    assert found[3] == "10.0 times (PyTorch's CUDA graph, no engine)"
    assert found[4:] == ["not measured"] * 2


def test_a_dry_run_measures_no_goal() -> None:
    dry = {"environment": {"dry": True}, "torch": {"rows": TORCH}, "cuda": {"checks": [CHECK]}}
    assert measured(dry) == ["not measured"] * 6


def test_tensorrt_rtx_has_its_own_goal() -> None:
    engine = {"engine": "e", "record": {"flavour": "rtx"}, "validity": {"answer": "VALID", "reasons": []}}
    done = {**engine, "stage": "done", "degraded": "", "failures": []}
    refused = {**engine, "validity": {"answer": "INVALID", "reasons": ["UNSUPPORTED_CC"]}, "stage": "opening"}
    for engines, words in (
        ([done], "VALID, runs with a CUDA graph, within the gate"),
        ([refused], "INVALID UNSUPPORTED_CC, ended during opening"),
        ([{**refused, "error": "it broke"}], "INVALID UNSUPPORTED_CC, opening: it broke"),
    ):
        assert measured({"parity": {"engines": engines}})[5] == words


def test_incomplete_files_are_summarised() -> None:
    """Every file is incomplete while its step runs."""
    halves: dict[str, Any] = {
        "environment": {"devices": [], "tensorrt": {}},
        "cuda": {"meta": {}, "running": "calls leak nothing", "checks": [{**CHECK, "passed": False}]},
        "parity": {"engines": [{"engine": "e", "record": {"flavour": "rtx"}}]},
        "torch": {"rows": [], "crashed": {"torch, one image": {"returncode": -9, "stderr": ""}}},
    }
    lines = summary(halves)
    assert "- **FAILED**: what the runtime adds" in lines
    assert "- **did not end**: calls leak nothing" in lines
    assert "- e: ended during validation" in lines
    assert "- **torch, one image: ended with status -9**: " in lines
