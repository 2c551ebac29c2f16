"""benchmarks/gpu_check.sh: with a GPU it measures; without one it says what it skipped."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu_check
from benchmarks.gpu import steps as gpu_steps
from benchmarks.gpu.steps import Step
from benchmarks.gpu.summary import read

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks/gpu_check.sh"


def wheel_in_parts(folder: Path) -> None:
    """Make a wheel with one module, `nemu_test_wheel`, split into two files."""
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


def environment(package: Path) -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable, "PACKAGE": str(package)}


@pytest.fixture(scope="module")
def checked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON files of a dry run, its summary, and its duration in seconds."""
    folder = tmp_path_factory.mktemp("gpu_check")
    wheel_in_parts(folder / "wheels")
    started = time.monotonic()
    done = subprocess.run(
        [str(SCRIPT), "--dry", str(folder / "out"), str(folder / "wheels")],
        env=environment(package),
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "out").glob("*.json")}
    return {"seconds": seconds, "json": found, "summary": (folder / "out/summary.md").read_text()}


def test_dry_run_is_short_and_records_its_origin(checked: dict[str, Any]) -> None:
    assert checked["seconds"] < 90
    assert checked["json"].keys() >= {"environment", "torch", "parity", "training"}
    for content in checked["json"].values():
        assert set(content["meta"]) == {"versions", "device", "commit", "command"}
        assert content["meta"]["command"] == "benchmarks/gpu_check.sh OUTDIR --dry"
    assert checked["json"]["environment"]["crashed"] == {}
    assert "nemu_test_wheel-1.0" in checked["json"]["environment"]["wheels"]
    assert "**A dry run" in checked["summary"]


def test_latency_has_every_variant_from_one_run(checked: dict[str, Any]) -> None:
    rows = [row for row in checked["json"]["torch"]["rows"] if row["backend"] == "torch eager"]
    variants = ["encoder", "fused", "authors_decoder", "authors_way"]
    assert [row["variant"] for row in rows if row["batch"] == 1] == variants
    for row in rows:
        assert (row["model"], row["image_size"]) == ("test_resnet", 96)
        assert row["n"] >= 5
        assert 0 < row["wall_median_ms"] <= row["wall_p99_ms"]
        assert (row["ratio_to_encoder"] == 1) is (row["variant"] == "encoder")
    assert f"| authors_way | test_resnet@96 | 1 | {rows[3]['median_ms']:.3f} |" in checked["summary"]


def test_training_is_timed_against_the_authors_loop(checked: dict[str, Any]) -> None:
    rows = {row["variant"]: row for row in checked["json"]["training"]["rows"]}
    assert rows["authors_loop"]["ratio_to_authors_loop"] == 1
    ratio = rows["our_loop"]["ratio_to_authors_loop"]
    assert f"{ratio:.2f} of the authors' loop (1 rounds)" in checked["summary"]


def test_skipped_steps_are_listed_with_their_reason(checked: dict[str, Any]) -> None:
    if checked["json"]["environment"]["devices"]:
        pytest.skip("there is a GPU")
    lines = checked["summary"].splitlines()
    assert lines[0] == "# No GPU was used"
    assert sum(line.endswith("| not measured |") for line in lines) >= 5
    for what in ("cuda", "rtx: engines", "torch, batches", "tests"):
        assert f"- {what}: there is no GPU" in lines


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_engines_are_built_judged_and_tried(checked: dict[str, Any], package: Path) -> None:
    engine = checked["json"]["parity"]["engines"][0]
    assert engine["validity"]["answer"] in ("VALID", "SUBOPTIMAL", "INVALID")
    assert ("error" in engine) or engine["stage"] == "done"
    assert checked["json"]["environment"]["seconds"]["rtx: build fused"] > 0
    assert f"| {engine['validity']['answer']}" in checked["summary"]
    assert not list(package.glob("engines/*")), "the package itself was changed"


def test_measurements_survive_a_kill(package: Path, tmp_path: Path) -> None:
    command = [str(SCRIPT), "--dry", str(tmp_path)]
    with subprocess.Popen(
        command, env=environment(package), stdout=subprocess.DEVNULL, start_new_session=True
    ) as running:
        until = time.monotonic() + 60
        while not (torch := read(tmp_path).get("torch", {})).get("rows"):
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        end_session(running.pid)
    summary = (tmp_path / "summary.md").read_text()
    assert "| goal | wanted | measured |" in summary
    assert "- cuda: " in summary or "## Our CUDA code" in summary
    assert read(tmp_path)["torch"]["rows"] == torch["rows"]
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["meta"]


def end_session(leader: int) -> None:
    """Send SIGKILL to every process of a session, as when a machine is shut down."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu_check.Check:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STARTED", raising=False)
    return gpu_check.Check(argparse.Namespace(out=tmp_path, minutes=9), {"gpu": False, "tensorrt": {}})


@pytest.mark.parametrize(
    ("code", "changes", "how"),
    [
        ("raise SystemExit('why')", {}, "**one: ended with status 1**: why"),
        ("import subprocess\nsubprocess.run(['sleep', '600'])", {"seconds": 1}, "stopped after 1 s"),
        ("", {"gpu": True}, "one: there is no GPU"),
        ("", {"needs": ("json", "no_such_module")}, "one: no_such_module: not installed"),
    ],
)
def test_failing_hanging_and_skipped_steps_are_reported(check, code, changes, how) -> None:
    Path("a_step.py").write_text(code)
    check.step(Step("one", 600, ("a_step",), share=None, gpu=False)._replace(**changes))
    assert check.status() == (1 if code else 0)
    assert how in Path("summary.md").read_text()


def test_a_late_step_is_not_begun(check) -> None:
    check.until = time.time() + 3
    check.step(Step("one", 600, ("no_such_step",), gpu=False))
    (late,) = check.found["skipped"]
    assert "were left" in late["why"]


def test_building_an_engine_does_not_count(check) -> None:
    Path("slow.py").write_text("import time\ntime.sleep(1)")
    until = check.until
    check.step(Step("rtx: build fused", None, ("slow",), gpu=False))
    assert check.until == pytest.approx(until + 1, abs=0.9)
    assert check.found["seconds"]["rtx: build fused"] >= 1


def test_the_important_steps_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "builds", lambda *_: iter(()))
    model = {"model": "m", "image_size": 224, "train_batch": None}
    options = argparse.Namespace(out="out", batch=[8], seconds=5, dry=False, **model)
    found = list(gpu_steps.steps(options, Path("x.nemu"), gpu=True))
    first = ["cuda", "torch, one image", "rtx: parity", "rtx: engines", "training"]
    assert [step.name for step in found[:5]] == first
    assert sum(step.seconds for step in found[:5]) <= 6 * 60


@pytest.mark.parametrize(
    ("absent", "pattern"),
    [
        ("onnxsim onnxscript captum relax_xai skimage sklearn quantus matplotlib openvino scipy", "*"),
        ("torch onnx timm lightning", "[!l]*"),  # all but latency.py run on a Jetson
    ],
    ids=["no dependencies of benchmarks", "no torch"],
)
def test_steps_import_without(absent: str, pattern: str) -> None:
    """With what is left of numpy, torch, timm, lightning, safetensors, onnx, onnxruntime, cuda-bindings."""
    code = f"""import importlib, importlib.metadata as metadata, sys
absent = set({absent!r}.split())
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
find = metadata.Distribution.from_name
def from_name(name):
    if name.replace("-", "_") in absent | {{"scikit_image", "scikit_learn"}}:
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.Distribution.from_name = from_name
for name in sys.argv[1:]: importlib.import_module(name)"""
    names = [f"benchmarks.gpu.{path.stem}" for path in (ROOT / "benchmarks/gpu").glob(f"{pattern}.py")]
    assert len(names) > 8
    if pattern == "*":
        names.append("benchmarks.training.__main__")
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_outcomes_of_gpu_tests_are_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/gpu/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(record_property):\n    record_property('frames', 7)\n"
        "def test_b():\n    pytest.skip('no device')\n"
        "def test_c():\n    assert 1 == 2\n"
    )
    environment = {**os.environ, "NEMU_GPU_REPORT": str(tmp_path / "tests.jsonl")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 1
    first, second, third = read(tmp_path)["tests"]["rows"]
    assert (first["outcome"], first["frames"]) == ("passed", 7)
    assert (second["outcome"], second["message"]) == ("skipped", "Skipped: no device")
    assert (third["outcome"], "assert 1 == 2" in third["message"]) == ("failed", True)
