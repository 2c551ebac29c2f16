"""benchmarks/gpu_check.sh, run here: with a GPU it measures, without one it says what it skipped."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, gpu_tests
from benchmarks.gpu_summary import goals

ROOT = Path(__file__).parents[2]


def wheel_in_parts(folder: Path) -> None:
    """A wheel with one module, `nemu_test_wheel`, cut in two."""
    folder.mkdir()
    whole = folder / "nemu_test_wheel-1.0-py3-none-any.whl"
    info = "nemu_test_wheel-1.0.dist-info"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("nemu_test_wheel.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nemu-test-wheel\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = whole.read_bytes()
    whole.unlink()
    (folder / f"{whole.name}.partaa").write_bytes(content[:300])
    (folder / f"{whole.name}.partab").write_bytes(content[300:])


@pytest.fixture(scope="module")
def checked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON files of a small run, and the text of its summary."""
    folder = tmp_path_factory.mktemp("gpu_check")
    wheel_in_parts(folder / "wheels")
    options = "--model test_resnet --image-size 64 --batch 1 2 --seconds 0.1 --train-batch 2 --minutes 60"
    done = subprocess.run(
        [str(ROOT / "benchmarks/gpu_check.sh"), str(folder / "out"), str(folder / "wheels")],
        env={**os.environ, "PYTHON": sys.executable, "PACKAGE": str(package), "GPU_CHECK_OPTIONS": options},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "out").glob("*.json")}
    return {**found, "summary": (folder / "out/summary.md").read_text()}


def test_every_file_says_where_it_comes_from(checked: dict[str, Any]) -> None:
    files = {name: content for name, content in checked.items() if name != "summary"}
    assert set(files) == {"environment", "parity", "latency", "engines", "tests", "training"}
    for content in files.values():
        assert set(content["meta"]) == {"versions", "device", "commit", "command"}
        assert content["meta"]["command"].startswith("benchmarks/gpu_check.sh OUTDIR --model test_resnet")
    assert "nemu_test_wheel-1.0" in checked["environment"]["wheels"]


def test_latency_has_both_variants_from_one_run(checked: dict[str, Any]) -> None:
    rows = [row for row in checked["latency"]["rows"] if row["backend"] == "torch eager"]
    variants = ("encoder", "fused", "authors_decoder", "authors_way")
    assert [(row["batch"], row["variant"]) for row in rows] == list(itertools.product((1, 2), variants))
    for row in rows:
        assert (row["model"], row["image_size"]) == ("test_resnet", 64)
        assert row["n"] >= 5
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert (row["ratio_to_encoder"] == 1) is (row["variant"] == "encoder")
    assert any(row["backend"] == "onnxruntime" for row in checked["engines"]["rows"])


def test_what_did_not_run_is_listed_with_its_reason(checked: dict[str, Any]) -> None:
    if checked["environment"]["devices"]:
        pytest.skip("there is a GPU")
    skipped = {e["what"]: e["why"] for step in ("latency", "engines") for e in checked[step]["skipped"]}
    assert skipped["torch cuda graph"] == skipped["energy per frame"] == "there is no GPU"
    reasons = ("tensorrt fp16 on the package", "what the Explainer adds to the enqueue")
    for what in (*reasons, "engines of encoder, fused and authors' decoder"):
        assert "driver" in skipped[what] or "no engine" in skipped[what], skipped[what]
        assert f"- {what}: {skipped[what]}" in checked["summary"]


def test_the_summary_claims_no_goal_that_was_not_measured(checked: dict[str, Any]) -> None:
    lines = checked["summary"].splitlines()
    if not checked["environment"]["devices"]:
        assert lines[0] == "# No GPU was used"
        assert sum(line.endswith("| not measured |") for line in lines) == 4
    assert any("| authors_way | test_resnet@64 | 2 |" in line for line in lines)


def test_goals_are_read_off_the_engines_rows_alone() -> None:
    row = {"batch": 1, "p99_ms": 0.33, "ratio_to_encoder": 1.04, "wall_median_ms": 0.4}
    engines = [
        {**row, "backend": "rtx 1.7, cuda graph", "variant": "fused", "median_ms": 0.3},
        {**row, "backend": "overhead, x", "variant": "cuda graph", "median_ms": 0.4},
        {**row, "backend": "overhead, x", "variant": "explainer.run_device", "wall_median_ms": 0.425},
    ]
    torch_rows = [
        {**row, "backend": "torch cuda graph", "variant": "fused", "median_ms": 0.1},
        {**row, "backend": "torch eager", "variant": "authors_way", "median_ms": 3.0},
    ]
    figures = [goal[2] for goal in goals({"engines": {"rows": engines}, "latency": {"rows": torch_rows}})]
    assert figures == pytest.approx([1.04, 1.1, 25, 10])
    assert [goal[2] for goal in goals({"latency": {"rows": torch_rows}})] == [None] * 4


def test_a_step_that_fails_hangs_or_comes_too_late_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def step(code: str, *, left: float = 600, longest: float = 600) -> dict[str, Any]:
        Path("a_step.py").write_text(code)
        until = time.time() + left
        out = tmp_path / "x.json"
        return gpu_check._step("tests", lambda path, limit: ["a_step"], out, until=until, longest=longest)

    failed = step("open('x.json', 'w').write('{\"rows\": [1]}')\nraise SystemExit('why')")
    assert failed["rows"] == [1]
    assert failed["crashed"] == {"returncode": 1, "stderr": "why\n"}
    hung = step("import subprocess\nsubprocess.run(['sleep', '600'])", longest=1)
    assert "stopped after 1 s" in hung["crashed"]["stderr"]
    (late,) = step("", left=3)["skipped"]
    assert late["what"] == "tests"
    assert "were left" in late["why"]


def test_gpu_tests_are_read_with_the_figures_of_the_soak(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\npytestmark = pytest.mark.gpu\n"
        "def test_a():\n    open(os.environ['NEMU_SOAK_JSON'], 'w').write('{\"frames\": 7}')\n"
        "def test_b():\n    pytest.skip('no device')\n"
        "def test_c():\n    assert 1 == 2\n"
    )
    out = tmp_path / "tests.json"
    assert gpu_tests.main([str(out), "--tests", str(tmp_path)]) == 1
    result = json.loads(out.read_text())
    assert [test["outcome"] for test in result["tests"]] == ["passed", "skipped", "failed"]
    assert result["soak"] == {"frames": 7}
    (skipped,) = result["skipped"]
    assert skipped["what"].endswith("test_it::test_b")
    assert skipped["why"] == "no device"


def test_training_is_timed_against_the_authors_loop(checked: dict[str, Any]) -> None:
    rows = {row["variant"]: row for row in checked["training"]["rows"]}
    assert rows["authors_loop"]["ratio_to_authors_loop"] == 1
    assert rows["our_loop"]["images_per_second"] > 0


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_engines_are_judged_and_tried(checked: dict[str, Any], package: Path) -> None:
    (engine,) = checked["parity"]["engines"]
    assert engine["validity"]["answer"] in ("VALID", "SUBOPTIMAL", "INVALID")
    assert ("error" in engine) or engine["stage"] == "done"
    assert not list(package.glob("engines/*")), "the package itself was changed"
