"""The bare engine, the clock and the rows of a package's engines, over the fake GPU."""

from __future__ import annotations

import dataclasses
import functools
import importlib
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
from benchmarks.gpu import package as gpu_package
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.package import form_of
from benchmarks.gpu.report import QUEUED, REPLAYS, Report, device_clock
from benchmarks.gpu.stand_in import VERSION, stand_in
from benchmarks.gpu.summary import goals
from runtime.backends.cuda.memory import Stream
from runtime.errors import BackendError
from runtime.package.folder import Package
from tests.benchmarks.gpu.pretended_gpu import INPUT, PretendedKernels, pretended_bench

SHAPE = (2, 8, 8, 3)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with pretended_bench(monkeypatch) as bench:
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in(bench.kernels, most=4))
        yield bench


def engine_of(bench: Bench, **changes: object) -> SimpleNamespace:
    record = dataclasses.replace(gpu_bench._record(bench.gpu, 4), **changes)
    return SimpleNamespace(record=record, read=lambda: b"a plan", path=Path("toy.engine"))


@pytest.mark.parametrize(("fault", "why"), [("", ""), ("stale", "replay did not give")])
def test_bare_engine_uses_only_graphs_that_replay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str, why: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(bench.kernels, most=4, fault=fault))
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        bare = stack.enter_context(gpu_engine.lane(engine_of(bench), SHAPE, stream))
        assert why in bare.no_graph
        assert bool(bare.no_graph) is bool(fault)
        before = bench.kernels.gpu.launches
        bare.launch(SHAPE[0])
        bench.cuda.synchronize(stream.handle)
        assert bench.kernels.gpu.launches == before + (not fault)


def test_engines_are_enqueued_if_one_has_no_graph(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "tensorrt_rtx", stand_in(bench.kernels, most=4, fault="refuses", rtx=True)
    )
    report = Report(tmp_path / "engines.json", budget=60, seconds=0.1, gpu=False)
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
    report = Report(folder / "engines.json", budget=60, seconds=0.1, gpu=False)
    with bench.current():
        gpu_engine.rows(report, package, engines)
        gpu_engine.overhead(report, package, engines)
    return json.loads((folder / "engines.json").read_text())


@pytest.mark.usefixtures("ticks")
def test_the_package_engines_give_rows_without_torch(bench: Bench, tmp_path: Path) -> None:
    rows = measured(bench, tmp_path, {"encoder": engine_of(bench), "fused": engine_of(bench)})["rows"]
    graphs = [(row["batch"], row["variant"]) for row in rows if row["backend"].endswith("cuda graph")]
    assert graphs == list(itertools.product((1, 4), ("encoder", "fused")))
    assert rows[1]["ratio_to_encoder"] == 1  # every tick is as long
    overhead = {row["variant"] for row in rows if row["backend"] == "overhead, toy.engine"}
    assert overhead == {"bare", "explainer.run_device", "backend.run", "explainer"}


@pytest.mark.usefixtures("ticks")
def test_the_engine_for_targets_is_timed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = importlib.import_module("tests.runtime.fake_tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.fake_tensorrt(bench.kernels.gpu, version=VERSION))
    plans = {"encoder": fake.EMBEDDING, "fused": b"a plan", "toward": fake.TARGETS}
    changes = {"encoder": {"outputs": ("embedding",)}, "toward": {"inputs": ("image", "toward")}}
    engines = {name: engine_of(bench, **changes.get(name, {})) for name in plans}
    for name, engine in engines.items():
        engine.read = functools.partial(bytes, plans[name])
        assert form_of(engine.record) == name
    found = measured(bench, tmp_path, engines)
    assert {entry["what"] for entry in found["skipped"]} <= {"energy per frame"}
    graphs = [row["variant"] for row in found["rows"] if row["backend"].endswith("cuda graph")]
    assert graphs == [*plans, *plans]
    assert "backend.run_toward" in {row["variant"] for row in found["rows"]}
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
        report = Report(path, budget=60, seconds=0.01, gpu=False)
        report.compare({"encoder": lambda: np.zeros(9)}, lambda call: 1.0, backend="x", batch=batch)
        report.skip("something", "why")
    content = json.loads(path.read_text())
    assert [row["batch"] for row in content["rows"]] == [1, 8]
    assert len(content["skipped"]) == 2


def test_enqueued_work_is_also_timed_to_its_end(tmp_path: Path) -> None:
    report = Report(tmp_path / "x.json", budget=60, seconds=0.01, gpu=False)
    calls = {"encoder": lambda: None, "fused": lambda: None}
    report.compare(calls, lambda call: 1.0, finish=lambda: time.sleep(0.002), backend="x", batch=1)
    for row in report.content["rows"]:
        assert row["median_ms"] == 1
        assert 2 <= row["wall_median_ms"] <= row["wall_p99_ms"]
        assert row["ratio_ci"] == [1, 1]  # twenty means of ten are enough


def test_the_command_that_builds_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine for targets is built only for a package that takes them; no engine is built twice."""
    monkeypatch.setattr(gpu_package, "_can_build", lambda flavour: True)
    monkeypatch.setattr(gpu_package, "library", lambda flavour: SimpleNamespace(__version__="1.7"))
    held: list[SimpleNamespace] = []
    files: dict[str, str] = {}
    opened = SimpleNamespace(engines=lambda: held, manifest=SimpleNamespace(files=files))
    monkeypatch.setattr(gpu_package.Package, "open", lambda path: opened)
    built = {form: gpu_package.build_command(tmp_path, "tensorrt", form) for form in gpu_package.FORMS}
    assert [bool(command) for command in built.values()] == [True, True, False]
    assert not {"--embedding-only", "--toward"} & set(built["fused"])
    files["model.toward.onnx"] = "0"
    assert "--toward" in gpu_package.build_command(tmp_path, "tensorrt", "toward")
    record = SimpleNamespace(flavour="tensorrt", version="1.7", embedding_only=False, takes_target=True)
    held.append(SimpleNamespace(record=record))
    assert gpu_package.build_command(tmp_path, "tensorrt", "toward") == []
    assert gpu_package.build_command(tmp_path, "tensorrt", "fused") == built["fused"]
