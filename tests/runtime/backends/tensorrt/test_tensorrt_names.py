"""Every name of TensorRT that the project uses is in every supported version, or guarded by `hasattr`.

The project's code runs with a library for each version that has this version's names only, see
`named_tensorrt`.  `tests/conformance/tensorrt_snapshot.py` reads the names from NVIDIA's wheels.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.engine import builder
from export.engine.monitor import Progress, monitor
from runtime.backends.tensorrt import library as tensorrt_library
from runtime.backends.tensorrt import selection as tensorrt
from runtime.errors import ExportError
from runtime.package.folder import Package
from tests.runtime.backends.tensorrt.named_tensorrt import (
    VERSIONS,
    Library,
    Member,
    flavour,
    owners,
    unknown,
)

ROOT = Path(__file__).parents[4]
OUTPUTS = ("embedding", "mask")
SHAPES = {"image": (1, 4, 6, 3), "toward": (-1, 3), "embedding": (1, 3), "mask": (1, 4, 6)}
TYPES = {"image": "UINT8", "toward": "FLOAT", **dict.fromkeys(OUTPUTS, "FLOAT")}


class Walk:
    """Runs all the code that calls TensorRT, with libraries of one version; `used` has the names it used."""

    def __init__(self, package: Package, add: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package, self.add, self.monkeypatch = package, add, monkeypatch
        self.used: set[tuple[str, str]] = set()

    def library(self, label: str, answers: dict[str, Any]) -> Library:
        """Put a new library in the place of the installed one."""
        made = Library(label, answers)
        made.used = self.used
        self.monkeypatch.setitem(sys.modules, made.__name__, made)
        return made

    def run(self, label: str, *, toward: bool, capturable: bool) -> None:
        """Open an engine and use it in every way."""
        names = ("image", *["toward"] * toward, *OUTPUTS)
        answers = {
            "ICudaEngine.num_io_tensors": len(names),
            "ICudaEngine.num_aux_streams": 0,
            "ICudaEngine.get_tensor_name": names.__getitem__,
            "ICudaEngine.get_tensor_dtype": lambda name: Member("DataType", TYPES[name]),
            "ICudaEngine.get_tensor_shape": SHAPES.__getitem__,
            "IExecutionContext.get_tensor_shape": SHAPES.__getitem__,
            "IExecutionContext.update_device_memory_size_for_shapes": lambda: 256,
            "IExecutionContext.is_stream_capturable": lambda stream: capturable,
            "Runtime.get_engine_validity": lambda plan: (Member("EngineValidity", "VALID"), 1),
        }
        trt = self.library(label, answers)
        tensorrt_library.logger(trt).log(trt.ILogger.WARNING, "a warning")
        inputs = {"inputs": ("image", "toward")} if toward else {}
        self.add(self.package, f"toy-{toward}", flavour=flavour(label), version=trt.__version__, **inputs)
        backend = tensorrt.open_backend(self.package, toward=toward)
        backend.warm_up()
        images = np.zeros((3, 4, 6, 3), np.uint8)
        if toward:
            backend.run_toward(images, np.zeros((3, 3), np.float32))
        else:
            backend.run(images)
            backend.submit(images[:1])()
        backend.close()

    def build(self, label: str, *, parses: bool) -> None:
        """Build an int8 engine; TensorRT-RTX fails at the first attempt."""
        trt = self.library(label, {})
        plans = iter([*[None] * (flavour(label) == "rtx"), trt.make("IHostMemory")])
        said = ("node", "node_name", "node_operator", "desc")
        trt.answers.update({**network(trt), **{f"ParserError.{name}": lambda: "" for name in said}})
        trt.answers["OnnxParser.num_errors"] = 1
        trt.answers["OnnxParser.parse_from_file"] = lambda path: parses
        trt.answers["Builder.build_serialized_network"] = lambda network, config: next(plans)
        file = self.package.path / "model.onnx"
        onnx.save(onnx.ModelProto(), file)
        options = {"flavour": flavour(label), "batch": (1, 1, 4), "precision": "int8", "capability": "8.9"}
        built = builder.build(file, **options, workspace_bytes=1 << 20, progress=False)
        assert built.plan == b"serialised"


def network(trt: Library) -> dict[str, Any]:
    """Answers of a parsed network: a convolution whose inputs come out of int8."""
    types = {"image": "UINT8", "q": "INT8", "a": "HALF", "b": "HALF", **dict.fromkeys(OUTPUTS, "FLOAT")}
    tensors = {
        name: trt.make("ITensor", name=name, dtype=Member("DataType", dtype), shape=(-1, 4, 6, 3))
        for name, dtype in types.items()
    }

    def layer(kind: str, inputs: str, output: str) -> Any:
        taken, made = [tensors[name] for name in inputs], tensors[output]
        counts = {"num_inputs": len(taken), "num_outputs": 1}
        tensors_of = {"get_input": taken.__getitem__, "get_output": lambda i: made}
        return trt.make("ILayer", name=kind, type=Member("LayerType", kind), **counts, **tensors_of)

    layers = [
        layer("DEQUANTIZE", "q", "a"),
        layer("SHUFFLE", "a", "b"),
        layer("CONVOLUTION", "bb", "embedding"),
    ]
    return {
        "INetworkDefinition.num_inputs": 1,
        "INetworkDefinition.get_input": lambda i: tensors["image"],
        "INetworkDefinition.num_outputs": 2,
        "INetworkDefinition.get_output": lambda i: tensors[OUTPUTS[i]],
        "INetworkDefinition.num_layers": len(layers),
        "INetworkDefinition.get_layer": layers.__getitem__,
        "IBuilderConfig.builder_optimization_level": 3,
    }


@pytest.fixture
def walk(toy, add, gpu, monkeypatch):
    """Runs everything with one version, and returns the names used: (class, member)."""

    def every(label: str) -> set[tuple[str, str]]:
        walked = Walk(toy, add, monkeypatch)
        for toward, capturable in product((False, True), repeat=2):
            for file in toy.path.glob("engines/*"):
                file.unlink()
            walked.run(label, toward=toward, capturable=capturable)
        walked.build(label, parses=True)
        with pytest.raises(ExportError, match="parser refuses"):
            walked.build(label, parses=False)
        return walked.used

    return every


@pytest.mark.parametrize("label", VERSIONS)
def test_every_version_has_the_names_used(walk, label):
    used = walk(label)
    assert not unknown(used)
    assert {("Runtime", "deserialize_cuda_engine"), ("IExecutionContext", "execute_async_v3")} <= used
    assert {("OnnxParser", "parse_from_file"), ("ParserError", "node_operator")} <= used
    assert ("LayerType", "EINSUM") in used


def names_in(text: str) -> set[str]:
    """Names of TensorRT in a source: `trt.Class.MEMBER`, and other names with `_` that TensorRT has."""
    members = {name for own in owners().values() for name in own if "_" in name} - {"infer_shapes"}  # of onnx
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            of_library = ast.unparse(node).removeprefix("self._").startswith("trt.")
            found |= {node.attr} if of_library and node.attr[0].isupper() else {node.attr} & members
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"):
            found |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)} & members
    return found


def test_every_name_in_the_sources_is_reached(walk):
    reached = {member for label in VERSIONS for _, member in walk(label)}
    files = [path for room in ("runtime", "export", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    found = {str(path): names_in(path.read_text()) for path in files}
    assert len(reached & set().union(*found.values())) > 60
    assert {name: left for name, own in found.items() if (left := own - reached)} == {}


# The check itself


@pytest.mark.parametrize(
    ("label", "use", "missing"),
    [
        ("10.3", lambda trt: trt.BuilderFlags.TF32, "module.BuilderFlags"),
        ("10.3", lambda trt: trt.MemoryPoolType.WORK_SPACE, "MemoryPoolType.WORK_SPACE"),
        ("11.4", lambda trt: trt.BuilderFlag.FP16, "BuilderFlag.FP16"),
        ("rtx-1.7", lambda trt: trt.BuilderFlag.FP16, "BuilderFlag.FP16"),
        ("10.3", lambda trt: trt.Runtime(None).get_engine_validity(b""), "Runtime.get_engine_validity"),
        ("11.4", lambda trt: trt.Runtime(None).deserialize_cuda_engine(b"").nme, "ICudaEngine.nme"),
        ("11.4", lambda trt: getattr(trt.LayerType, "CONVOLUTIONS"), "LayerType.CONVOLUTIONS"),  # noqa: B009
        ("11.4", lambda trt: setattr(trt.make("IBuilderConfig"), "monitor", 1), "IBuilderConfig.monitor"),
        ("11.4", lambda trt: type("M", (trt.IProgressMonitor,), {"phase_start": 1}), "step_complete"),
    ],
)
def test_a_name_that_the_version_lacks_fails(label, use, missing):
    with pytest.raises(AttributeError) as error:
        use(Library(label, {}))
    assert missing in str(error.value)


def test_a_guarded_name_may_be_missing():
    for label, has in (("10.3", False), ("rtx-1.7", True)):
        trt = Library(label, {})
        assert hasattr(trt.Runtime, "get_engine_validity") is has
        assert (getattr(trt, "IRuntimeCache", None) is not None) is (label != "10.3")
        assert not unknown(trt.used)
        assert not hasattr(trt.Runtime, "engine_validity")
        assert unknown(trt.used) == {("Runtime", "engine_validity")}, "no version has it: misspelt"


def test_a_complete_progress_monitor_is_accepted():
    assert monitor(Library("11.4", {}), Progress(show=False, cancelled=None)) is not None


def test_reasons_for_invalid_plans_are_real_names():
    assert tensorrt_library._REASONS.keys() == {
        name for name in owners()["EngineInvalidityDiagnostics"] if name.isupper()
    }
