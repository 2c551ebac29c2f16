"""The bare engine, the clock and the rows of a package's engines, over the fake GPU."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import bench as gpu_bench
from benchmarks.gpu import engine as gpu_engine
from benchmarks.gpu import steps as gpu_steps
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.report import QUEUED, REPLAYS, Report, device_clock
from benchmarks.gpu.stand_in import VERSION, stand_in
from benchmarks.gpu.summary import goals
from runtime.backends.cuda.memory import Stream
from runtime.errors import BackendError
from runtime.package.folder import Package
from tests.benchmarks.gpu.pretended_gpu import INPUT, PretendedKernels, pretended_bench
from tests.runtime import fake_tensorrt as fakes

SHAPE = (2, 8, 8, 3)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with pretended_bench(monkeypatch) as bench:
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in(bench.kernels, most=4))
        yield bench


def engine_of(bench: Bench, **changes: object) -> SimpleNamespace:
    record = dataclasses.replace(gpu_bench._record(bench.gpu, 4), **changes)
    return SimpleNamespace(record=record, read=lambda: b"a plan", path=Path("toy.engine"))


def test_engines_are_enqueued_if_one_has_no_graph(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "tensorrt_rtx", stand_in(bench.kernels, most=4, fault="refuses", rtx=True)
    )
    report = Report(tmp_path / "engines.json", seconds=0.1, gpu=False)
    engines = {"encoder": engine_of(bench), "fused": engine_of(bench, flavour="rtx")}
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        lanes = {
            name: stack.enter_context(gpu_engine.lane(engine, SHAPE, stream))
            for name, engine in engines.items()
        }
        calls, way = gpu_engine._launches(report, lanes, SHAPE[0])
        launches = bench.kernels.gpu.launches
        calls["encoder"]()
        calls["fused"]()
    assert way == "enqueue"
    assert bench.kernels.gpu.launches == launches
    assert "cannot be recorded" in report.content["skipped"][0]["why"]


def test_an_engine_that_does_not_run_frees_everything(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise BackendError("it broke", expected="success", cure="none")

    monkeypatch.setattr(PretendedKernels, "infer", fails)
    with (
        bench.current(),
        Stream(bench.cuda) as stream,
        pytest.raises(BackendError, match="it broke"),
        gpu_engine.lane(engine_of(bench), SHAPE, stream),
    ):
        pass


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every time stamp of the device is 1 ms after the one before."""
    count = itertools.count()
    monkeypatch.setattr(
        gpu_engine, "events", lambda _: (lambda: next(count), lambda begin, end: 1.0 * (end - begin))
    )


def measured(bench: Bench, folder: Path, engines: dict[str, SimpleNamespace]) -> dict[str, Any]:
    """The report on a package's engines."""
    manifest = SimpleNamespace(
        input=INPUT, embedding_id="toy", level=None, encoder=SimpleNamespace(id="timm/toy", dimension=3)
    )
    package = Package(folder, manifest, "0" * 64)
    report = Report(folder / "engines.json", seconds=0.1, gpu=False)
    with bench.current():
        gpu_engine.rows(report, package, engines)
        gpu_engine.overhead(report, package, engines)
    return json.loads((folder / "engines.json").read_text())


@pytest.mark.usefixtures("ticks")
def test_every_form_is_timed_without_torch(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fakes.fake_tensorrt(bench.kernels.gpu, version=VERSION))
    plans = {"encoder": fakes.EMBEDDING, "fused": b"a plan", "toward": fakes.TARGETS}
    changes = {"encoder": {"outputs": ("embedding",)}, "toward": {"inputs": ("image", "toward")}}
    engines = {name: engine_of(bench, **changes.get(name, {})) for name in plans}
    for name, engine in engines.items():
        engine.read = functools.partial(bytes, plans[name])
        assert gpu_steps.form_of(engine.record) == name
    found = measured(bench, tmp_path, engines)
    assert found["skipped"] == []
    rows = found["rows"]
    graphs = [(row["batch"], row["variant"]) for row in rows if row["backend"].endswith("cuda graph")]
    assert graphs == list(itertools.product((1, 4), plans))
    assert rows[1]["ratio_to_encoder"] == 1  # every tick is as long
    overhead = {row["variant"] for row in rows if row["backend"] == "overhead, toy.engine"}
    assert overhead == {"bare", "explainer.run_device", "backend.run", "explainer", "backend.run_toward"}
    what, wanted, value = goals({"engines": found})[1]
    assert ("for a target" in what, wanted) == (True, "≤ 1.07")
    assert value.startswith("1.000")


def test_the_clock_stamps_a_busy_queue() -> None:
    seen: list[str] = []
    marks = iter((100.0, 130.0))

    def mark() -> float:
        seen.append("mark")
        return next(marks)

    found = device_clock(
        lambda: seen.append("call"),
        mark=mark,
        between=lambda begin, end: end - begin,
        finish=lambda: seen.append("finish"),
    )
    assert seen == [*["call"] * QUEUED, "mark", *["call"] * REPLAYS, "mark", "finish"]
    assert found == 30 / REPLAYS
    assert REPLAYS >= 10


def test_a_report_adds_to_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "torch.json"
    for batch in (1, 8):
        report = Report(path, seconds=0.01, gpu=False)
        report.compare({"encoder": lambda: np.zeros(9)}, lambda call: 1.0, backend="x", batch=batch)
        report.skip("something", "why")
    content = json.loads(path.read_text())
    assert [row["batch"] for row in content["rows"]] == [1, 8]
    assert len(content["skipped"]) == 2


def test_enqueued_work_is_also_timed_to_its_end(tmp_path: Path) -> None:
    report = Report(tmp_path / "x.json", seconds=0.01, gpu=False)
    calls = {"encoder": lambda: None, "fused": lambda: None}
    report.compare(calls, lambda call: 1.0, finish=lambda: time.sleep(0.002), backend="x", batch=1)
    for row in report.content["rows"]:
        assert row["median_ms"] == 1
        assert 2 <= row["wall_median_ms"] <= row["wall_p99_ms"]
        assert row["ratio_ci"] == [1, 1]  # twenty means of ten are enough


def test_the_command_that_builds_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine for targets is built only for a package that takes them; no engine is built twice."""
    monkeypatch.setattr(gpu_steps, "library", lambda flavour: SimpleNamespace(__version__="1.7"))
    held: list[SimpleNamespace] = []
    files: dict[str, str] = {}
    opened = SimpleNamespace(engines=lambda: held, manifest=SimpleNamespace(files=files))
    monkeypatch.setattr(gpu_steps.Package, "open", lambda path: opened)

    def built() -> list[list[str]]:
        return [
            [option for option in ("--toward", "--embedding-only") if option in step.command]
            for step in gpu_steps.builds(tmp_path, "tensorrt", "9.0")
        ]

    assert built() == [[], ["--embedding-only"]]
    files["model.toward.onnx"] = "0"
    assert built() == [[], ["--toward"], ["--embedding-only"]]
    record = SimpleNamespace(flavour="tensorrt", version="1.7", embedding_only=False, takes_target=True)
    held.append(SimpleNamespace(record=record))
    assert built() == [[], ["--embedding-only"]]
