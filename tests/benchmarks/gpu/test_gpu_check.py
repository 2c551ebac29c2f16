"""benchmarks/gpu_check.sh: with a GPU it measures; without one it says what it skipped."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
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
from benchmarks.gpu.steps import FILES, Plan, Step, steps

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks/gpu_check.sh"
ABSENT = "onnxsim onnxscript captum relax_xai skimage sklearn quantus matplotlib openvino scipy"


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
    files = list((folder / "out").iterdir())
    found = {path.stem: json.loads(path.read_text()) for path in files if path.suffix == ".json"}
    return {
        "files": len(files), "seconds": seconds, "json": found,
        "summary": (folder / "out/summary.md").read_text(),
    }  # fmt: skip


def test_dry_run_is_short_and_records_its_origin(checked: dict[str, Any]) -> None:
    assert checked["seconds"] < 90
    assert checked["files"] <= 8
    assert set(checked["json"]) == {
        *("environment", "cuda", "torch", "parity", "engines", "training", "tests")
    }
    for content in checked["json"].values():
        assert set(content["meta"]) == {"versions", "device", "commit", "command"}
        assert content["meta"]["command"] == "benchmarks/gpu_check.sh OUTDIR --dry"
        assert "crashed" not in content
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
    for what in ("cuda", "soak", "rtx: engines", "torch, batches", "tests"):
        assert f"- {what}: there is no GPU" in lines


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_engines_are_built_judged_and_tried(checked: dict[str, Any], package: Path) -> None:
    (engine,) = checked["json"]["parity"]["engines"]
    assert engine["validity"]["answer"] in ("VALID", "SUBOPTIMAL", "INVALID")
    assert ("error" in engine) or engine["stage"] == "done"
    assert checked["json"]["parity"]["seconds"]["rtx: build fused"] > 0
    assert f"| {engine['validity']['answer']}" in checked["summary"]
    assert not list(package.glob("engines/*")), "the package itself was changed"


def test_measurements_survive_a_kill(package: Path, tmp_path: Path) -> None:
    command = [str(SCRIPT), "--dry", str(tmp_path)]
    with subprocess.Popen(
        command, env=environment(package), stdout=subprocess.DEVNULL, start_new_session=True
    ) as running:
        until = time.monotonic() + 60
        while "rows" not in (torch := read(tmp_path / "torch.json")) or not torch["rows"]:
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        end_session(running.pid)
    summary = (tmp_path / "summary.md").read_text()
    assert "| goal | wanted | measured |" in summary
    assert "- cuda: " in summary or "## Our CUDA code" in summary
    assert read(tmp_path / "torch.json")["rows"] == torch["rows"]
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["meta"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def end_session(leader: int) -> None:
    """Send SIGKILL to every process of a session, as when a machine is shut down."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


def test_failing_hanging_and_late_steps_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(options=argparse.Namespace(minutes=9), package=None, gpu=False)

    def step(code: str, *, left: float = 600, seconds: float = 600, **changes: Any) -> dict[str, Any]:
        Path("a_step.py").write_text(code)
        Path("torch.json").unlink(missing_ok=True)
        one = Step(name="one", file="torch", seconds=seconds, command=("a_step",), budget=None, gpu=False)
        check = gpu_check.Check(tmp_path, until=time.time() + left)
        check.step(dataclasses.replace(one, **changes), plan)
        assert (check.status() == 1) is ("crashed" in read(Path("torch.json")))
        return read(Path("torch.json"))

    failed = step("open('torch.json', 'w').write('{\"rows\": []}')\nraise SystemExit('why')")
    assert failed["rows"] == []
    assert failed["crashed"]["one"] == {"returncode": 1, "stderr": "why\n"}
    assert "- **one: ended with status 1**: why" in Path("summary.md").read_text()
    hung = step("import subprocess\nsubprocess.run(['sleep', '600'])", seconds=1)
    assert "stopped after 1 s" in hung["crashed"]["one"]["stderr"]
    (late,) = step("", left=3)["skipped"]
    assert "were left" in late["why"]
    assert step("", gpu=True)["skipped"] == [{"what": "one", "why": "there is no GPU"}]
    (lacking,) = step("", needs=("json", "no_such_module"))["skipped"]
    assert lacking["why"] == "no_such_module: not installed"


def test_building_an_engine_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text("import time\ntime.sleep(1)")
    check = gpu_check.Check(tmp_path, until=1000.0)
    check._build("rtx: build fused", ["slow"])
    assert check._until == pytest.approx(1001, abs=0.9)
    assert read(tmp_path / "parity.json")["seconds"]["rtx: build fused"] >= 1


def test_the_important_steps_come_first() -> None:
    model = {"model": "m", "image_size": 224, "train_batch": None}
    options = argparse.Namespace(batch=[8], seconds=5, dry=False, **model)
    plan = Plan(options=options, package=None, gpu=True)
    found = list(steps(plan))
    names = [step.name for step in found]
    first = ["cuda", "torch, one image", "rtx: parity", "rtx: engines", "training"]
    assert names[:5] == first
    assert sum(step.seconds for step in found[:5]) <= 6 * 60
    assert {step.file for step in found} | {"environment"} == set(FILES)
    assert len(FILES) + 1 <= 8  # and the summary


def test_steps_need_no_benchmark_dependencies() -> None:
    """With numpy, torch, timm, lightning, safetensors, onnx, onnxruntime and cuda-bindings alone."""
    code = f"""import importlib.metadata as metadata, importlib.util, pkgutil, sys
absent = set({ABSENT!r}.split())
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
import benchmarks.gpu
steps = ["gpu." + m.name for m in pkgutil.iter_modules(benchmarks.gpu.__path__) if m.name != "__main__"]
assert len(steps) > 10 and importlib.util.find_spec("scipy") is None, steps
for name in [*steps, "training.__main__"]: importlib.import_module("benchmarks." + name)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_steps_for_a_jetson_do_not_import_torch() -> None:
    names = ("__main__", "cuda", "engine", "parity", "report", "tests")
    code = "import importlib, sys\nsys.modules['torch'] = sys.modules['onnx'] = None\n" + "".join(
        f"importlib.import_module('benchmarks.gpu.{name}')\n" for name in names
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gpu_tests_are_reported_with_their_soak(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\npytestmark = pytest.mark.gpu\n"
        "def test_a():\n    open(os.environ['NEMU_SOAK_JSON'], 'w').write('{\"frames\": 7}')\n"
        "def test_b():\n    pytest.skip('no device')\n"
        "def test_c():\n    assert 1 == 2\n"
    )
    out = tmp_path / "tests.json"
    command = [sys.executable, "-m", "benchmarks.gpu.tests", str(out), "--tests", str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1
    result = json.loads(out.read_text())
    assert [test["outcome"] for test in result["tests"]] == ["passed", "skipped", "failed"]
    assert result["soak"] == {"frames": 7}
    (skipped,) = result["skipped"]
    assert skipped["what"].endswith("test_it.py::test_b")
    assert skipped["why"] == "no device"
