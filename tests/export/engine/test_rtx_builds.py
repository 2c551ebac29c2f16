"""Real compilation, for a CNN and for a ViT: TensorRT-RTX builds for every GPU on a machine without one."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.build_engine import main
from export.graph import from_torch as graph
from export.graph import rules
from export.graph.fuse import Fused
from export.graph.session import widened
from export.graph.structure import Structure
from export.int8.calibrate import ranges
from export.int8.for_tensorrt import insert_qdq
from export.package import pack
from export.targets import TARGETS
from runtime.__main__ import main as runtime
from runtime.backends.tensorrt.library import validity
from runtime.backends.tensorrt.selection import RTX_CAPABILITIES
from runtime.errors import ExportError, InputError
from runtime.package.folder import Package
from tests.export.built_engine import rtx, rtx_engine
from tests.export.graph.test_graph import nem_of

pytestmark = rtx

ROOT = Path(__file__).parents[3]
SIZE = 64
OPSET = graph.OPSETS["int8"]
BUILDS = [
    *(("cnn", "fp16", capability) for capability in (*RTX_CAPABILITIES, "portable")),
    *(("vit", "fp16", capability) for capability in ("7.5", "12.0", "portable")),
    *(("cnn", "int8", capability) for capability in ("7.5", "8.9", "portable")),
    *(("vit", "int8", capability) for capability in ("7.5", "portable")),
]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """(network, precision) → its graph, made as a package's are: random weights, an untrained masker."""
    folder = tmp_path_factory.mktemp("graphs")
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    made = {}
    for kind, name in (("cnn", "test_resnet"), ("vit", "test_vit")):
        fused = Fused(nem_of(folder, name, size=(SIZE, SIZE)), precision="int8")
        half, _ = graph.simplify(graph.export_onnx(fused, height=SIZE, width=SIZE, opset=OPSET))
        graph.lint(half, opset=OPSET)
        bounds = ranges(widened(half), images)
        int8 = insert_qdq(half, bounds, keep_float=Structure(half).heads())
        for precision, model in (("fp16", half), ("int8", int8)):
            made[kind, precision] = folder / f"{kind}-{precision}.onnx"
            graph.save(model, made[kind, precision])
    return made


@pytest.mark.parametrize(("kind", "precision", "capability"), BUILDS)
def test_every_gpu_of_the_family(graphs, kind, precision, capability):
    built = rtx_engine(graphs[kind, precision], precision, capability=capability)
    assert built.compute_capability == capability
    assert built.inputs == {"image": ("UINT8", (-1, SIZE, SIZE, 3))}
    embedding = (-1, {"cnn": 96, "vit": 64}[kind])
    assert built.outputs == {"embedding": ("FLOAT", embedding), "mask": ("FLOAT", (-1, SIZE, SIZE))}
    weighted = built.flags["weighted_layers"]
    wanted = {"fp16": "HALF", "int8": "INT8"}[precision]
    assert weighted[wanted] > sum(weighted.values()) / 2
    assert set(weighted) <= {wanted, "HALF"}
    assert built.flags["timing_cache"] == "none"
    assert "MALFORMED_ENGINE" not in validity(built.plan).reasons


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 4, 8), (8, 8, 8)])
def test_batch_profiles(graphs, batch):
    assert rtx_engine(graphs["cnn", "fp16"], "fp16", batch=batch).batch == batch


def test_plans_differ_between_gpus_and_portable(graphs):
    gpus = ("7.5", "8.9", "portable")
    assert len({rtx_engine(graphs["cnn", "fp16"], "fp16", capability=gpu).plan for gpu in gpus}) == 3


@pytest.mark.parametrize(
    ("precision", "capability", "came", "cure"),
    [
        ("bf16", "7.5", "precision bf16 for compute capability 7.5", "--precision fp16"),
        ("fp16", "8.7", "flavour rtx for compute capability 8.7", "--target tensorrt"),
        ("fp16", "9.0", "flavour rtx for compute capability 9.0", "--target tensorrt"),
    ],
)
def test_impossible_combinations_raise_our_errors(graphs, precision, capability, came, cure):
    with pytest.raises(InputError) as refused:
        rtx_engine(graphs["cnn", "fp16"], precision, capability=capability)
    assert came in refused.value.came
    assert cure in refused.value.cure


def test_float32_matrix_products_are_refused_for_turing(package):
    """The package's embedding is pooled and its masker convolves: one product is put before the pooling."""
    model = onnx.load(str(package / "model.onnx"))
    (embedding,) = [n for n in model.graph.node if "embedding" in n.output]
    wide = onnx.numpy_helper.from_array(np.eye(96, dtype=np.float32), "wide")
    model.graph.initializer.append(wide)
    embedding.output[0] = "narrow"
    model.graph.node.append(onnx.helper.make_node("MatMul", ["narrow", "wide"], ["embedding"], "product"))
    path = package.parent / "product.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ExportError) as refused:
        rtx_engine(path, "fp32", capability="7.5")
    assert "the first is product" in refused.value.came
    assert "--target rtx-portable" in refused.value.cure
    assert rtx_engine(path, "fp32").compute_capability == "portable"


@pytest.mark.parametrize("target", [t.name for t in TARGETS.values() if t.gpus])
def test_graphs_of_a_package_break_no_rule(graphs, target):
    tripped = {
        (kind, precision, finding.rule.name)
        for (kind, precision), path in graphs.items()
        for finding in rules.lint(onnx.load(str(path), load_external_data=False), TARGETS[target])
    }
    assert tripped == set()


NO_TORCH = """
import sys
for name in "torch torchvision timm lightning safetensors onnxscript train".split():
    sys.modules[name] = None
from export.build_engine import main
sys.exit(main(["--package", sys.argv[1], "--precision", "fp16"]))
"""


def test_engines_are_built_without_torch(copy):
    """No --target: the installed library decides.  RTX: an engine for 8.0 and newer, and one for Turing."""
    command = [sys.executable, "-c", NO_TORCH, str(copy.path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "left" in answer.stderr  # the bar and its estimate
    records = {e.path.name: e.record for e in copy.engines()}
    assert {name: r.compute_capability for name, r in records.items()} == {
        "rtx-fp16-b8.engine": "portable",
        "rtx-sm75-fp16-b8.engine": "7.5",
    }
    assert all(r.parity.not_run or r.parity.embedding_error < 0.02 for r in records.values())
    assert "parity: " in answer.stdout


def test_info_lists_what_each_engine_needs(copy, capsys):
    assert main(["--package", str(copy.path), "--target", "rtx", "--quiet"]) == 0
    assert runtime(["info", str(copy.path)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine ")]
    version = copy.engines()[0].record.version
    for name, gpu in (("rtx-fp16-b8", "8.0 or newer"), ("rtx-sm75-fp16-b8", "7.5")):
        (line,) = [line for line in said if f"{name}.engine" in line]
        assert line.endswith(f"needs TensorRT-RTX {version} and an NVIDIA GPU of compute capability {gpu}")


def test_a_target_elsewhere_checks_and_builds_nothing(copy, capsys):
    assert main(["--package", str(copy.path), "--target", "jetpack6", "--target", "datacenter"]) == 0
    assert copy.engines() == []
    said = capsys.readouterr().out
    assert "jetpack6: the graph breaks no known rule" in said
    assert f"nemu build --package {copy.path} --precision fp16" in said


def test_graph_failing_on_a_target_is_not_packed(package, tmp_path, monkeypatch, capsys):
    """With --masker the whole package is not written, and the nodes are named."""

    def copied(folder, *_, **__):
        shutil.copytree(package, folder, dirs_exist_ok=True)
        return Package.open(folder)

    rule = dataclasses.replace(rules.RULES[0], find=lambda graph, target: graph.nodes[:1])
    monkeypatch.setattr(pack, "make_package", copied)
    monkeypatch.setattr(rules.lint, "__defaults__", ((rule,),))
    out = tmp_path / "x.nemu"
    assert main(["--masker", "any", "--out", str(out), "--target", "jetpack6", "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "model.fp16.onnx would fail on jetpack6 (TensorRT 10.3)" in said
    assert f"{rule.name}: " in said
    assert list(tmp_path.iterdir()) == []
