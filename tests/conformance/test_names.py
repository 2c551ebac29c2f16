"""Every name of TensorRT and CUDA that the project uses is one of the real bindings, version by version.

The versions are those of tensorrt_names.json, which tensorrt_snapshot.py reads from NVIDIA's wheels; the
sources are read by names_used.py.  The lean runtime has no builder and no parser, so only `runtime` must do
with it.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest
from bindings import MODULE, bindings
from facts import Use
from names_used import uses

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "export", "benchmarks")
LEAN = bindings().of_flavour("lean")
CUDA_NAME = re.compile(r"^(cu(da)?[A-Z]|CU[a-z_]|CUDA_ERROR_)\w+$")


def sources(word: str) -> dict[str, str]:
    """File → text of every source that has `word` in it."""
    paths = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    return {name: text for name, text in texts.items() if word in text.lower()}


def complaint(use: Use) -> str:
    """What is wrong with a use; empty if nothing is."""
    missing = use.missing(bindings()) - (frozenset() if use.file.startswith("runtime/") else LEAN)
    if use.member == "?":
        return f"{use}: getattr with a name that cannot be read here"
    return f"{use} is not in {', '.join(sorted(missing))}" if missing else ""


def complaints(text: str, file: str = "runtime/example.py") -> list[str]:
    """Those about one source."""
    found = (complaint(use) for use in uses({file: textwrap.dedent(text)}, bindings()))
    return [line for line in found if line]


@pytest.fixture(scope="module")
def used() -> list[Use]:
    """Every name of TensorRT in the sources."""
    return uses(sources("tensorrt"), bindings())


def test_every_name_is_in_every_version_or_guarded(used: list[Use]) -> None:
    found = [line for line in map(complaint, used) if line]
    assert not found, "\n" + "\n".join(found)


def test_the_names_that_everything_hangs_on_are_among_those_read(used: list[Use]) -> None:
    read = {(use.owner, use.member) for use in used}
    assert read >= {
        (MODULE, "Builder"),
        ("Builder", "create_network"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("MemoryPoolType", "WORKSPACE"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_operator"),
        ("IOptimizationProfile", "set_shape"),
        ("ITensor", "dtype"),
        ("LayerType", "CONVOLUTION"),
        ("Runtime", "deserialize_cuda_engine"),
        ("Runtime", "get_engine_validity"),
        ("ICudaEngine", "get_tensor_name"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "set_input_shape"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "execute_async_v3"),
    }


def test_the_stand_ins_have_no_name_that_the_bindings_lack() -> None:
    checked = 0
    for path in sorted((ROOT / "tests").rglob("fake*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and bindings().is_class(node.name):
                checked += 1
                own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                extra = {name for name in own if not name.startswith("_")} - bindings().members(node.name)
                assert not extra, f"{path.name}: {node.name} has {', '.join(sorted(extra))}"
    assert checked >= 3


# How the sources are read


def test_a_misspelt_name_is_found_with_its_line_and_every_version() -> None:
    text = """
        def load(trt, plan):
            runtime = trt.Runtime(None)
            return runtime.deserialise_cuda_engine(plan)
        """
    (line,) = complaints(text)
    assert line.startswith(
        "runtime/example.py:4: Runtime.deserialise_cuda_engine is not in 10.13, 10.16, 10.3"
    )
    assert line.endswith("lean-11.4, rtx-1.7")


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("def f(trt):\n    return trt.BuilderFlags.TF32", "BuilderFlags"),
        ("def f(trt):\n    return trt.MemoryPoolType.WORK_SPACE", "MemoryPoolType.WORK_SPACE"),
        ("def f(x):\n    e = library(x).Runtime(1).deserialize_cuda_engine(b'')\n    e.nme", "Engine.nme"),
        ("def f(trt):\n    getattr(trt.LayerType, 'CONVOLUTIONS')", "LayerType.CONVOLUTIONS"),
        ("N = ('FILL', 'SUM')\ndef f(trt):\n    {getattr(trt.LayerType, n) for n in N}", "LayerType.SUM"),
        ("def f(trt, n):\n    getattr(trt.Runtime(1), n)", "cannot be read"),
        ("def f(trt):\n    hasattr(trt.Runtime, 'engine_validity')", "Runtime.engine_validity"),
        ("class M(trt.IProgressMonitor):\n    def phase_start(self): ...\n"
         "    def phase_finish(self): ...\n    def step_completed(self): ...", "step_complete (not defined"),
    ],
)  # fmt: skip
def test_other_ways_to_misspell(text: str, owner: str) -> None:
    lines = complaints(text)
    assert any(owner in line for line in lines), lines


@pytest.mark.parametrize(
    "text",
    [
        "def f(trt):\n    if hasattr(trt.Runtime, 'get_engine_validity'):\n"
        "        trt.Runtime(1).get_engine_validity(b'')",
        "def f(trt):\n    return getattr(trt.Runtime(1), 'engine_header_size', 64)",
        "def f():\n    return library('rtx').Runtime(1).get_engine_validity(b'')",
        "def f(trt, flavour):\n    if flavour == 'rtx':\n        trt.Runtime(1).get_engine_validity(b'')",
        "def f(trt, flavour):\n    if flavour != 'rtx':\n        return\n"
        "    trt.Runtime(1).get_engine_validity(b'')",
        "def f(trt):\n    return trt.Runtime(1).engine_host_code_allowed, trt.__version__",
        "def f(trt):\n    if not hasattr(getattr(trt, 'IRuntimeConfig', None), 'create_runtime_cache'):\n"
        "        return\n    g(trt.Runtime(1).deserialize_cuda_engine(b''))\n"
        "def g(engine):\n    engine.create_runtime_config().create_runtime_cache()",
        "def f(trt, flavour, more):\n    if more and flavour == 'rtx':\n        g(trt.Runtime(1))\n"
        "def g(runtime):\n    h(runtime)\ndef h(runtime):\n    runtime.get_engine_validity(b'')",
    ],
)
def test_what_is_guarded_or_everywhere_is_fine(text: str) -> None:
    assert complaints(text) == []


def test_a_name_of_some_versions_is_reported_for_the_others() -> None:
    text = "def f(trt):\n    return trt.Runtime(1).get_engine_validity(b'')"
    assert complaints(text) == [
        "runtime/example.py:2: Runtime.get_engine_validity is not in 10.13, 10.16, 10.3, 11.4, lean-11.4"
    ]
    text = "def f(trt):\n    return trt.Builder(1).create_network(1 << int(trt.BuilderFlag.FP16))"
    assert complaints(text, "export/example.py") == [
        "export/example.py:2: BuilderFlag.FP16 is not in 11.4, rtx-1.7"
    ]
    text = (
        "def f(trt, flavour):\n    if flavour == 'rtx':\n        g(trt.Runtime(1))\n    g(trt.Runtime(1))\n"
        "def g(runtime):\n    runtime.get_engine_validity(b'')"
    )
    assert "10.3" in complaints(text)[0]
    text = "def f(trt, flavour):\n    if flavour != 'rtx':\n        trt.Runtime(1).get_engine_validity(b'')"
    assert "rtx" not in complaints(text)[0]


def test_types_are_followed_across_functions_files_and_attributes() -> None:
    texts = {
        "runtime/a.py": """
            from runtime.b import build, Held
            class Backend:
                def __init__(self, flavour):
                    trt = library(flavour)
                    self._engine = self._must(trt.Runtime(1).deserialize_cuda_engine(b""), "it")
                    self._held = Held(context=self._engine.create_execution_context())
                def _must(self, result, what):
                    if result is None:
                        raise ValueError(what)
                    return result
                @property
                def engine(self):
                    return self._engine
                def run(self):
                    build(self.engine)
                    self._held.context.execute_async_v4(0)
            """,
        "runtime/b.py": """
            from dataclasses import dataclass
            @dataclass
            class Held:
                context: object
            def build(engine):
                contexts = [engine.create_execution_context() for _ in range(2)]
                for context in contexts:
                    context.set_shape("image", ())
            """,
    }
    found = uses({name: textwrap.dedent(text) for name, text in texts.items()}, bindings())
    wrong = [line.partition(" is")[0] for line in map(complaint, found) if line]
    assert wrong == [
        "runtime/a.py:17: IExecutionContext.execute_async_v4",
        "runtime/b.py:9: IExecutionContext.set_shape",
    ]


# CUDA


def cuda_complaints(text: str, file: str) -> list[str]:
    """Names of CUDA's APIs in a source that the installed cuda-bindings lack.

    A member of an enum must be one of that enum where the source says which, and of any otherwise.
    """
    modules = [importlib.import_module(f"cuda.bindings.{name}") for name in ("runtime", "driver")]
    values = {name: value for module in modules for name, value in vars(module).items()}
    members = {name for value in values.values() for name in getattr(value, "__members__", ())}
    found = []
    for node in ast.walk(ast.parse(text)):
        inside = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        elif isinstance(node, ast.Attribute):
            name, inside = node.attr, getattr(node.value, "attr", "")
        else:
            continue
        enum = values.get(inside) if CUDA_NAME.match(inside) else None
        if CUDA_NAME.match(name) and not (hasattr(enum, name) if enum else name in values or name in members):
            found.append(f"{file}:{node.lineno}: {inside + '.' if enum else ''}{name}")
    return sorted(found)


def test_every_cuda_name_is_in_the_installed_bindings() -> None:
    texts = sources("cuda")
    assert any("cuMemcpyHtoDAsync" in text for text in texts.values())
    found = [line for file, text in texts.items() for line in cuda_complaints(text, file)]
    assert not found, "\n" + "\n".join(found)


def test_misspelt_cuda_names_are_found() -> None:
    text = (
        "call('cuMemAloc')\ncuda().CUmemorytype.CU_MEMORYTYPE_HOSTESS\ncuda().cuMemAlloc\n"
        "kinds = cuda().CUmemorytype\nkinds.CU_MEMORYTYPE_DEVICE, kinds.CU_MEMORYTYPE_DIVICE\n"
        "drive('cuCtxPushCurrent', 'cuCtxPushCurent')"
    )
    assert cuda_complaints(text, "x.py") == [
        "x.py:1: cuMemAloc",
        "x.py:2: CUmemorytype.CU_MEMORYTYPE_HOSTESS",
        "x.py:5: CU_MEMORYTYPE_DIVICE",
        "x.py:6: cuCtxPushCurent",
    ]
