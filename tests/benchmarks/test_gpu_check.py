"""benchmarks/gpu_check.sh, run here: with a GPU it measures, without one it says what it skipped."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

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
def checked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The JSON files of a small run."""
    folder = tmp_path_factory.mktemp("gpu_check")
    wheel_in_parts(folder / "wheels")
    options = "--model test_resnet --image-size 64 --batch 1 2 --seconds 0.1 --train-batch 2"
    done = subprocess.run(
        [str(ROOT / "benchmarks/gpu_check.sh"), str(folder / "out"), str(folder / "wheels")],
        env={**os.environ, "PYTHON": sys.executable, "PACKAGE": str(package), "GPU_CHECK_OPTIONS": options},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: json.loads(path.read_text()) for path in (folder / "out").glob("*.json")}


def test_every_file_says_where_it_comes_from(checked: dict[str, dict]) -> None:
    assert set(checked) == {"environment", "parity", "latency", "training"}
    for content in checked.values():
        assert set(content["meta"]) == {"versions", "device", "commit", "command"}
        assert content["meta"]["command"].startswith("benchmarks/gpu_check.sh OUTDIR --model test_resnet")
    assert "nemu_test_wheel-1.0" in checked["environment"]["wheels"]


def test_latency_has_both_variants_from_one_run(checked: dict[str, dict]) -> None:
    rows = [row for row in checked["latency"]["rows"] if row["backend"] == "torch eager"]
    variants = ("encoder", "fused", "authors_decoder", "authors_way")
    assert [(row["batch"], row["variant"]) for row in rows] == list(itertools.product((1, 2), variants))
    for row in rows:
        assert (row["model"], row["image_size"]) == ("test_resnet", 64)
        assert row["n"] >= 5
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert (row["ratio_to_encoder"] == 1) is (row["variant"] == "encoder")
    assert any(row["backend"] == "onnxruntime" for row in checked["latency"]["rows"])


def test_what_did_not_run_is_listed_with_its_reason(checked: dict[str, dict]) -> None:
    skipped = {entry["what"]: entry["why"] for entry in checked["latency"]["skipped"]}
    assert "the fused engine only" in skipped["encoder alone as an engine"]
    if not checked["environment"]["devices"]:
        assert skipped["torch cuda graph"] == "there is no GPU"
        assert (
            "driver" in skipped["tensorrt fp16 on the package"]
            or "no engine" in skipped["tensorrt fp16 on the package"]
        )


def test_training_is_timed_against_the_authors_loop(checked: dict[str, dict]) -> None:
    rows = {row["variant"]: row for row in checked["training"]["rows"]}
    assert rows["authors_loop"]["ratio_to_authors_loop"] == 1
    assert rows["our_loop"]["images_per_second"] > 0


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_engines_are_judged_and_tried(checked: dict[str, dict], package: Path) -> None:
    (engine,) = checked["parity"]["engines"]
    assert engine["validity"]["answer"] in ("VALID", "SUBOPTIMAL", "INVALID")
    assert ("error" in engine) or engine["stage"] == "done"
    assert not list(package.glob("engines/*")), "the package itself was changed"
