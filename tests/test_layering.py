"""What the runtime imports: numpy, and optional libraries inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Allowed inside functions of runtime.
OPTIONAL = (
    "onnxruntime onnxruntime_ep_nv_tensorrt_rtx PIL tqdm av pyarrow ray tensorrt tensorrt_rtx cuda pycuda"
)
ALONE = """
import importlib, pkgutil, sys
import numpy

class Absent:
    def find_spec(name, *_):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"numpy", "runtime", "nemu"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent)
import runtime, nemu
names = [module.name for module in pkgutil.walk_packages(runtime.__path__, "runtime.")]
assert len(names) > 10 and "runtime.backends.onnxruntime" in names, names
for name in names:
    importlib.import_module(name)
importlib.import_module(sys.argv[1])
"""
"""Imports every module of runtime, and one other, where only numpy is installed."""


def alone(module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ALONE, module], cwd=ROOT, capture_output=True, text=True)


def imports(path: Path, *, top: bool = False) -> Iterator[str]:
    """The top-level packages that a file imports: anywhere, or with `top` only when it is imported itself."""
    for node in at_import(ast.parse(path.read_text())) if top else ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node` that runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_import(child)


def test_runtime_modules_import_with_numpy_alone():
    answer = alone("runtime")
    assert answer.returncode == 0, answer.stderr
    assert "ModuleNotFoundError: onnx" in alone("onnxruntime").stderr, "the check can fail"


def test_runtime_imports_optional_libraries_inside_functions():
    light = sys.stdlib_module_names | {"numpy", "runtime"}
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        other = (set(imports(path)) - set(OPTIONAL.split()) | set(imports(path, top=True))) - light
        assert not other, f"{path.relative_to(ROOT)} imports {', '.join(other)}"


def test_forbidden_imports_are_found(tmp_path):
    path = tmp_path / "forbidden.py"
    path.write_text("import numpy\ndef f():\n    import torch.nn\nif True:\n    from timm.data import x\n")
    assert set(imports(path)) == {"numpy", "torch", "timm"}
    assert set(imports(path, top=True)) == {"numpy", "timm"}
