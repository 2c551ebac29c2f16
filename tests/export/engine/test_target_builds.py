"""Engines that take a target: which graph they are built of, beside which others; and RTX builds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from export.build_engine import main
from export.convert import main as convert
from export.package import attach, pack
from export.request import Request
from export.triton import write_repository
from runtime.__main__ import main as runtime
from runtime.backends.tensorrt.library import validity
from runtime.errors import ExportError, InputError
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Package
from runtime.package.records import ParityRecord
from tests.export.built_engine import built_engine, rtx, rtx_engine
from tests.export.test_triton import add, read
from tests.toward_graph import add_targets

BOTH = ("image", "toward")


@pytest.fixture(scope="module")
def asking(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with graphs that take a target."""
    return add_targets(Path(shutil.copytree(package, tmp_path_factory.mktemp("asking") / "tiny.nemu"))).path


@pytest.fixture
def copy(asking: Path, tmp_path: Path) -> Package:
    return Package.open(shutil.copytree(asking, tmp_path / "copy.nemu"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[str, ...]]]:
    """A builder that compiles nothing: the graph, precision and inputs of each engine that is asked of it."""
    asked: list[tuple[str, str, tuple[str, ...]]] = []

    def build(onnx, **options):
        asked.append((onnx.name, options["precision"], options["inputs"]))
        return built_engine(onnx.name.encode(), **options)

    monkeypatch.setattr(attach.builder, "build", build)
    monkeypatch.setattr(attach, "_gate", lambda *_: ParityRecord(not_run="unavailable"))
    monkeypatch.setattr(Request, "check", lambda self: None)
    return asked


def engines(path: Path) -> dict[str, bool]:
    return {e.path.name: e.record.takes_target for e in Package.open(path).engines()}


@rtx
def test_rtx_builds_one_beside_the_plain_engine(copy: Package, capsys) -> None:
    command = ["--package", str(copy.path), "--target", "rtx-portable", "--batch", "1:2:8"]
    assert main([*command, "--quiet"]) == 0
    (plain,) = copy.engines()
    before = plain.path.read_bytes(), plain.path.with_name(plain.path.name + ".json").read_bytes()
    assert main([*command, "--toward"]) == 0
    said = capsys.readouterr()
    assert "fp16, takes a target" in said.out
    assert f"next: nemu verify {copy.path}" in said.out
    assert "runs beside a plain engine" not in said.err
    asks = next(e for e in copy.engines() if e.record.takes_target)
    assert asks.path.name == "rtx-fp16-b8-toward.engine"
    assert (asks.record.inputs, asks.record.outputs) == (BOTH, ("embedding", "mask"))
    assert asks.record.onnx == "model.fp16.toward.onnx"
    assert asks.record.onnx_sha256 == copy.manifest.files["model.fp16.toward.onnx"]
    assert asks.record.batch == (1, 2, 8)
    layers = [sum(e.record.flags["weighted_layers"].values()) for e in (asks, plain)]
    assert layers[0] == layers[1] + 1, "the product of the target"
    assert "MALFORMED_ENGINE" not in validity(asks.read()).reasons
    assert before == (plain.path.read_bytes(), plain.path.with_name(plain.path.name + ".json").read_bytes())
    assert main([*command, "--toward", "--quiet"]) == 1  # it is there already
    assert runtime(["info", str(copy.path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine")]
    assert [("takes a target" in line) for line in lines] == [True, False]


@rtx
@pytest.mark.parametrize(("precision", "capability"), [("fp32", "portable"), ("fp16", "7.5")])
def test_both_inputs_are_in_the_profile(copy: Package, precision: str, capability: str) -> None:
    graph = copy.file(TOWARD_GRAPHS[precision])
    compiled = rtx_engine(graph, precision, capability=capability, batch=(1, 2, 4), inputs=BOTH)
    assert compiled.inputs == {"image": ("UINT8", (-1, 64, 64, 3)), "toward": ("FLOAT", (-1, 96))}
    assert compiled.outputs == {"embedding": ("FLOAT", (-1, 96)), "mask": ("FLOAT", (-1, 64, 64))}


@rtx
@pytest.mark.parametrize("inputs", [BOTH, ("image",)])
def test_a_graph_of_the_other_form_is_refused(copy: Package, inputs: tuple[str, ...]) -> None:
    graphs = GRAPHS if inputs == BOTH else TOWARD_GRAPHS
    with pytest.raises(ExportError, match="has the inputs") as refused:
        rtx_engine(copy.file(graphs["fp16"]), "fp16", inputs=inputs)
    assert ("toward" in refused.value.expected) is (inputs == BOTH)


@rtx
def test_batch_fixed_only_for_targets_is_refused(copy: Package, tmp_path: Path) -> None:
    model = onnx.load(str(copy.file("model.toward.onnx")))
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    with pytest.raises(ExportError, match=r"takes toward of shape \(1, 96\), and the batch was to be 1:1:8"):
        rtx_engine(tmp_path / "fixed.onnx", "fp32", inputs=BOTH)


def test_plain_requests_build_plain_engines_only(copy: Package, built: list) -> None:
    assert main(["--package", str(copy.path), "--target", "rtx", "--quiet"]) == 0
    assert built == [("model.fp16.onnx", "fp16", ("image",))] * 2
    assert engines(copy.path) == {"rtx-fp16-b8.engine": False, "rtx-sm75-fp16-b8.engine": False}


def test_new_package_with_targets_gets_both_forms(asking, built, tmp_path, monkeypatch, capsys) -> None:
    def copied(folder, *_, **__):
        shutil.copytree(asking, folder, dirs_exist_ok=True)
        return Package.open(folder)

    monkeypatch.setattr(pack, "make_package", copied)
    out = tmp_path / "x.nemu"
    new = ["--masker", "any", "--out", str(out), "--target", "rtx-portable", "--target", "jetpack6"]
    assert main([*new, "--precision", "fp32", "--batch", "2"]) == 0
    assert built == [("model.onnx", "fp32", ("image",)), ("model.toward.onnx", "fp32", BOTH)]
    assert engines(out) == {"rtx-fp32-b2-toward.engine": True, "rtx-fp32-b2.engine": False}
    said = capsys.readouterr().out.splitlines()
    options = [line.partition("--precision ")[2] for line in said if line.startswith("  nemu build")]
    assert options == ["fp32", "fp32 --toward"]


@pytest.mark.parametrize(
    ("options", "precision"),
    [((), "fp16"), (("--precision", "fp32"), "fp32"), (("--target", "jetpack6"), "")],
)
def test_target_engine_without_a_plain_one_warns(copy, built, capsys, options, precision) -> None:
    target = () if "--target" in options else ("--target", "rtx-portable")
    assert main(["--package", str(copy.path), *target, "--toward", "--quiet", *options]) == 0
    warned = f"it runs beside a plain engine in {precision}, and there is none: build it with --precision"
    assert (warned in capsys.readouterr().err) is bool(precision)
    assert len(built) == bool(precision)


def test_auto_takes_the_forms_that_the_package_has(copy: Package) -> None:
    request = Request(targets=(), precision="auto", batch=(1, 1, 8))
    assert request.precisions(copy) == ("fp16", "fp32")
    assert request.for_targets(copy).precisions(copy) == ("fp16", "fp32")
    files = dict.fromkeys(("model.onnx", "model.int8.trt.onnx", "model.toward.onnx"), "")
    int8 = Package(copy.path, type("Made", (), {"files": files})(), copy.hash)
    for precision in ("auto", "int8"):
        asked = Request(targets=(), precision=precision, batch=(1, 1, 8)).for_targets(int8)
        assert asked.precisions(int8) == ("fp32",)


def test_impossible_target_requests_are_refused(package: Path, copy: Package, built: list, capsys) -> None:
    target = ("--target", "rtx-portable")
    assert main(["--package", str(package), *target, "--toward"]) == 1
    assert "nemu train --toward" in capsys.readouterr().err
    assert main(["--package", str(copy.path), *target, "--toward", "--precision", "int8"]) == 1
    assert "engines for targets in int8" in capsys.readouterr().err
    assert main(["--package", str(copy.path), *target, "--toward", "--precision", "bf16"]) == 1
    assert "was built without model.bf16.toward.onnx" in capsys.readouterr().err
    assert built == []


def test_triton_and_deepstream_keep_the_one_input_form(copy: Package, tmp_path: Path) -> None:
    add(copy, "8.9", inputs=BOTH)
    with pytest.raises(InputError, match="no plan of classic TensorRT"):
        write_repository(copy, tmp_path / "models", backend="tensorrt")
    folder = write_repository(copy, tmp_path / "models", backend="onnxruntime")
    assert [i.name for i in read(folder).input] == ["image"]
    for kind, name in (("onnx", "x.onnx"), ("deepstream", "y.onnx")):
        assert convert([str(copy.path), "--format", kind, "--out", str(tmp_path / name)]) == 0
    for path in (folder / "1/model.onnx", tmp_path / "x.onnx", tmp_path / "y.onnx"):
        assert [i.name for i in onnx.load(str(path), load_external_data=False).graph.input] == ["image"]
