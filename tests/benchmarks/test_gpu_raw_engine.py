"""The bare engine, the clock and the rows of a package's engines, over the pretended GPU."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pretended_gpu import PretendedKernels, pretended_bench

from benchmarks import gpu_bench, gpu_engine, gpu_package
from benchmarks.gpu_bench import Bench
from benchmarks.gpu_package import form_of
from benchmarks.gpu_raw_engine import RawEngine
from benchmarks.gpu_report import QUEUED, REPLAYS, Report, device_clock
from benchmarks.gpu_stand_in import VERSION, stand_in
from benchmarks.gpu_summary import goals
from runtime.backends.cuda_memory import Stream
from runtime.errors import BackendError
from runtime.package import Package
from runtime.records import InputRecord

SHAPE = (2, 8, 8, 3)
INPUT = InputRecord(
    name="image", height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", crop_pct=1,
    interpolation="bilinear",
)  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with pretended_bench(monkeypatch) as bench:
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in(bench.kernels, most=4))
        yield bench


def engine_of(bench: Bench, **changes: object) -> SimpleNamespace:
    record = dataclasses.replace(gpu_bench._record(bench.gpu, 4), **changes)
    return SimpleNamespace(record=record, read=lambda: b"a plan", path=Path("toy.engine"))


def test_a_bare_engine_runs_and_is_replayed(bench: Bench) -> None:
    gpu = bench.kernels.gpu
    with bench.current(), Stream(bench.cuda) as stream:
        raw = RawEngine(engine_of(bench), SHAPE, stream)
        launch = raw.graph()
        before = gpu.launches
        launch()
        raw.finish()
        assert gpu.launches == before + 1
        raw.close()


def test_a_graph_that_computes_nothing_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(bench.kernels, most=4, fault="stale"))
    with bench.current(), Stream(bench.cuda) as stream:
        raw = RawEngine(engine_of(bench), SHAPE, stream)
        with pytest.raises(BackendError, match="another embedding than a plain run"):
            raw.graph()
        raw.close()


def test_engines_that_cannot_all_be_captured_are_enqueued(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "tensorrt_rtx", stand_in(bench.kernels, most=4, fault="refuses", rtx=True)
    )
    report = Report(tmp_path / "engines.json", budget=60, seconds=0.1, gpu=False)
    engines = {"encoder": engine_of(bench), "fused": engine_of(bench, flavour="rtx")}
    with bench.current(), Stream(bench.cuda) as stream:
        raw = {name: RawEngine(engine, SHAPE, stream) for name, engine in engines.items()}
        calls, way = gpu_engine._launches(report, raw)
        launches = bench.kernels.gpu.launches
        calls["encoder"]()
        calls["fused"]()
        for one in raw.values():
            one.close()
    assert way == "enqueue"
    assert bench.kernels.gpu.launches == launches
    assert "forbids capture" in report.content["skipped"][0]["why"]


def test_an_engine_that_does_not_run_gives_everything_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise BackendError("it broke", expected="success", cure="none")

    monkeypatch.setattr(PretendedKernels, "infer", fails)
    with bench.current(), Stream(bench.cuda) as stream, pytest.raises(BackendError, match="it broke"):
        RawEngine(engine_of(bench), SHAPE, stream)


def test_the_package_engines_give_rows_without_torch(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(
        gpu_engine, "events", lambda _: (lambda: next(ticks), lambda begin, end: 1.0 * (end - begin))
    )
    manifest = SimpleNamespace(
        input=INPUT, embedding_id="toy", level=None, encoder=SimpleNamespace(id="timm/toy")
    )
    package = Package(tmp_path, manifest, "0" * 64)
    engines = {"encoder": engine_of(bench), "fused": engine_of(bench)}
    report = Report(tmp_path / "engines.json", budget=60, seconds=0.1, gpu=False)
    with bench.current():
        gpu_engine.rows(report, package, engines)
        gpu_engine.overhead(report, package, engines)
    rows = json.loads((tmp_path / "engines.json").read_text())["rows"]
    graphs = [(row["batch"], row["variant"]) for row in rows if row["backend"].endswith("cuda graph")]
    assert graphs == list(itertools.product((1, 4), ("encoder", "fused")))
    assert rows[1]["ratio_to_encoder"] == 1  # every tick is as long
    overhead = {row["variant"] for row in rows if row["backend"] == "overhead, toy.engine"}
    assert overhead == {"bare", "explainer.run_device", "backend.run", "explainer"}


def test_the_clock_stamps_a_queue_that_is_busy() -> None:
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


def test_a_report_adds_to_what_an_earlier_step_left(tmp_path: Path) -> None:
    path = tmp_path / "torch.json"
    for batch in (1, 8):
        report = Report(path, budget=60, seconds=0.01, gpu=False)
        report.compare({"encoder": lambda: np.zeros(9)}, lambda call: 1.0, backend="x", batch=batch)
        report.skip("something", "why")
    content = json.loads(path.read_text())
    assert [row["batch"] for row in content["rows"]] == [1, 8]
    assert len(content["skipped"]) == 2


def test_a_call_that_only_enqueues_is_also_timed_until_its_end(tmp_path: Path) -> None:
    report = Report(tmp_path / "x.json", budget=60, seconds=0.01, gpu=False)
    calls = {"encoder": lambda: None, "fused": lambda: None}
    report.compare(calls, lambda call: 1.0, finish=lambda: time.sleep(0.002), backend="x", batch=1)
    for row in report.content["rows"]:
        assert row["median_ms"] == 1
        assert 2 <= row["wall_median_ms"] <= row["wall_p99_ms"]
        assert row["ratio_ci"] == [1, 1]  # twenty means of ten are enough


def test_the_engine_for_targets_is_timed_beside_the_others(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = importlib.import_module("fake_tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.fake_tensorrt(bench.kernels.gpu, version=VERSION))
    ticks = itertools.count()
    monkeypatch.setattr(
        gpu_engine, "events", lambda _: (lambda: next(ticks), lambda begin, end: 1.0 * (end - begin))
    )
    manifest = SimpleNamespace(
        input=INPUT, embedding_id="toy", level=None, encoder=SimpleNamespace(id="timm/toy", dimension=3)
    )
    package = Package(tmp_path, manifest, "0" * 64)
    plans = {"encoder": fake.EMBEDDING, "fused": b"a plan", "toward": fake.TARGETS}
    changes = {"encoder": {"outputs": ("embedding",)}, "toward": {"inputs": ("image", "toward")}}
    engines = {name: engine_of(bench, **changes.get(name, {})) for name in plans}
    for name, engine in engines.items():
        engine.read = functools.partial(bytes, plans[name])
        assert form_of(engine.record) == name
    report = Report(tmp_path / "engines.json", budget=60, seconds=0.1, gpu=False)
    with bench.current():
        gpu_engine.rows(report, package, engines)
        gpu_engine.overhead(report, package, engines)
    found = json.loads((tmp_path / "engines.json").read_text())
    assert {entry["what"] for entry in found["skipped"]} <= {"energy per frame"}
    graphs = [row["variant"] for row in found["rows"] if row["backend"].endswith("cuda graph")]
    assert graphs == [*plans, *plans]
    assert "backend.run_toward" in {row["variant"] for row in found["rows"]}
    what, wanted, measured = goals({"engines": found})[1]
    assert ("for a target" in what, wanted) == (True, "≤ 1.07")
    assert measured.startswith("1.000")


def test_the_command_that_builds_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for a package that takes targets, and only if it is not there."""
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
