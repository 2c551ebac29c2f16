"""Which engines a request makes of a package: the first precision that passes, and what is left out."""

from __future__ import annotations

import dataclasses
import json

import pytest

from export import targets
from export.build_engine import main
from export.graph.ranges import Ranges
from export.package import attach
from runtime.errors import BackendError, BackendUnavailable, ExportError, OutputExists, ParityError
from runtime.package.folder import Package
from runtime.package.records import ParityRecord
from tests.export.built_engine import built_engine

pytest.importorskip("tensorrt_rtx")

REFUSED = ExportError("layer 7 has no\n  kernel", expected="one", cure="none")


@pytest.fixture
def refusing(monkeypatch):
    """Builders that refuse these (compute capability, precision); the list of what was tried."""

    def make(*refused: tuple[str, str], error: Exception = REFUSED) -> list[tuple[str, str]]:
        tried = []

        def build(onnx, **asked):
            tried.append((asked["capability"], asked["precision"]))
            if tried[-1] in refused:
                raise error
            return built_engine(b"plan", **asked)

        monkeypatch.setattr(attach.builder, "build", build)
        return tried

    return make


def engines(package):
    return {(e.record.compute_capability, e.record.precision) for e in package.engines()}


def add(package, *options):
    return main(["--package", str(package.path), "--target", "rtx", *options])


def test_engine_has_the_first_precision_that_builds(copy, refusing, capsys):
    tried = refusing(("portable", "fp16"))
    assert add(copy, "--json") == 0
    assert tried == [("portable", "fp16"), ("portable", "fp32"), ("7.5", "fp16")]
    assert engines(copy) == {("portable", "fp32"), ("7.5", "fp16")}
    assert {e.record.compute_capability: e.record.flags["instead_of"] for e in copy.engines()} == {
        "portable": {"fp16": {"code": "error", "said": "layer 7 has no kernel"}},
        "7.5": {},
    }
    said = json.loads(capsys.readouterr().out)
    assert said["notes"] == ["rtx for portable: fp32, not fp16: layer 7 has no kernel"]
    assert said["left_out"] == {}


def test_engine_without_any_precision_is_left_out(copy, refusing, capsys):
    refusing(("7.5", "fp16"), ("7.5", "fp32"))
    assert add(copy, "--quiet") == 0
    assert engines(copy) == {("portable", "fp16")}
    why = "fp16: layer 7 has no kernel; fp32: layer 7 has no kernel"
    assert f"warning: no engine of rtx for 7.5: {why}" in capsys.readouterr().err


def test_only_the_requested_precision_is_tried(copy, refusing):
    tried = refusing(("7.5", "fp32"))
    assert add(copy, "--precision", "fp32") == 0
    assert tried == [("portable", "fp32"), ("7.5", "fp32")]
    assert engines(copy) == {("portable", "fp32")}


@pytest.mark.parametrize("options", [["--precision", "fp16"], []])
def test_nothing_built_is_an_error(copy, refusing, capsys, options):
    gate = ParityError("embedding error inf", expected="less", cure="none")
    refusing(*((gpu, p) for gpu in ("portable", "7.5") for p in ("fp16", "fp32")), error=gate)
    assert add(copy, *options) == 3
    error = capsys.readouterr().err
    assert "error: nothing of what was asked for passes" in error
    assert "embedding error inf" in error
    assert ("fp32: " in error) is not bool(options)
    assert engines(copy) == set()


def test_engine_failing_here_is_built_in_next_precision(copy, refusing, monkeypatch):
    refusing()

    def gate(package, plan, record):
        if record.precision == "fp16":
            raise BackendError("mask is not finite", expected="numbers", cure="another precision")
        return ParityRecord(not_run="unavailable")

    monkeypatch.setattr(attach, "_gate", gate)
    assert add(copy) == 0
    assert engines(copy) == {("portable", "fp32"), ("7.5", "fp32")}


def test_unavailable_library_stops_without_trying_other_precisions(copy, refusing):
    gone = BackendUnavailable("no driver", expected="one", cure="install it")
    tried = refusing(("portable", "fp16"), error=gone)
    assert add(copy) == 1
    assert tried == [("portable", "fp16")]


def test_existing_engine_is_refused_before_any_build(copy, refusing):
    tried = refusing()
    assert add(copy) == 0
    tried.clear()
    request = attach.Request(targets=(targets.find("rtx-sm75"),), precision="auto", batch=(1, 1, 8))
    with pytest.raises(OutputExists, match="rtx-sm75-fp16-b8"):
        attach.build(copy, request)
    assert tried == []


def test_auto_takes_int8_if_the_package_has_it(copy):
    request = attach.Request(targets=(), precision="auto", batch=(1, 1, 8))
    assert request.precisions(copy) == ("fp16", "fp32")
    files = {"model.onnx": "", "model.int8.trt.onnx": ""}
    made = dataclasses.replace(copy, manifest=dataclasses.replace(copy.manifest, files=files))
    assert request.precisions(made) == ("int8", "fp32")


def test_force_removes_an_engine_whose_precision_is_refused(copy, refusing, capsys):
    refusing()
    assert add(copy, "--precision", "fp16") == 0
    refusing(("portable", "fp16"))
    assert add(copy, "--force") == 0
    assert engines(copy) == {("portable", "fp32"), ("7.5", "fp16")}
    assert "rtx-fp16-b8.engine was removed" in capsys.readouterr().err


def test_existing_engine_of_a_later_precision_is_kept(copy, refusing, capsys):
    refusing()
    assert add(copy, "--precision", "fp32") == 0
    refusing(("portable", "fp16"))
    assert add(copy) == 0
    assert engines(copy) == {("portable", "fp32"), ("7.5", "fp32"), ("7.5", "fp16")}
    assert "fp32 is there already" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_ranges_of_an_older_package_are_measured(copy, refusing, monkeypatch, capsys, precision):
    parity = {**copy.manifest.parity, "torch fp16": ParityRecord()}
    older = dataclasses.replace(copy, manifest=dataclasses.replace(copy.manifest, parity=parity))
    seen = []

    def beyond(model, *sets):
        seen.append([len(images) for images in sets])
        return Ranges(peaks={"attn/node_MatMul (MatMul)": 2e6}, images=8)

    monkeypatch.setattr(attach, "measure_ranges", beyond)
    tried = refusing()
    request = attach.Request(targets=(targets.find("rtx-portable"),), precision=precision, batch=(1, 1, 8))
    built = attach.build(older, request)
    assert seen == [[8]]
    if precision == "fp16":
        assert tried == []
        assert "attn/node_MatMul (MatMul) reaches 2e+06" in str(built.failure)
    else:
        assert tried == [("portable", "fp32")]
        assert built.failure is None


def test_a_precision_that_the_package_refused_says_why(copy, refusing):
    refused = dataclasses.replace(copy.manifest, refused={"bf16": "embedding error 0.3"})
    request = attach.Request(targets=(targets.find("rtx"),), precision="bf16", batch=(1, 1, 8))
    with pytest.raises(ParityError, match=r"bf16 was refused when .* was made: embedding error 0\.3"):
        attach.build(dataclasses.replace(copy, manifest=refused), request)


def test_new_package_is_kept_without_any_engine(masker, refusing, tmp_path, capsys):
    refusing(("7.5", "fp16"), ("7.5", "fp32"))
    out = tmp_path / "x.nemu"
    build = ["--masker", str(masker), "--out", str(out), "--target", "rtx-sm75", "--quiet"]
    assert main(build) == 1
    assert "layer 7 has no" in capsys.readouterr().err
    assert Package.open(out).manifest.left_out.keys() == {"rtx-sm75 for 7.5"}
    assert "no engine of rtx-sm75 for 7.5" in (out / "README.md").read_text()
