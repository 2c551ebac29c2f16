"""What the runtime imports: numpy, and optional libraries inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME = sorted((ROOT / "runtime").rglob("*.py"))
HEAVY = (
    "torch torchvision timm lightning safetensors onnx onnxsim onnxscript onnxruntime "
    "onnxruntime_ep_nv_tensorrt_rtx tensorrt tensorrt_rtx tensorrt_lean tensorrt_dispatch cuda pycuda PIL "
    "cv2 scipy matplotlib tqdm av pyarrow ray sklearn skimage lancedb qdrant_client train export demo "
    "benchmarks"
)
# Allowed inside functions of runtime.
OPTIONAL = (
    "onnxruntime onnxruntime_ep_nv_tensorrt_rtx PIL tqdm av pyarrow ray tensorrt tensorrt_rtx cuda pycuda"
)


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
    code = (
        f"import sys, pkgutil, importlib\n"
        f"for name in {HEAVY!r}.split(): sys.modules[name] = None\n"
        f"import runtime, nemu\n"
        f"names = [m.name for m in pkgutil.walk_packages(runtime.__path__, 'runtime.')]\n"
        f"assert len(names) > 10 and 'runtime.backends.onnxruntime' in names, names\n"
        f"for name in names: importlib.import_module(name)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_runtime_imports_only_numpy_at_the_top():
    for path in RUNTIME:
        other = set(imports(path, top=True)) - sys.stdlib_module_names - {"numpy", "runtime"}
        assert not other, f"{path.relative_to(ROOT)} imports {', '.join(other)} at the top"


def test_runtime_imports_no_training_package_anywhere():
    allowed = sys.stdlib_module_names | {"numpy", "runtime"} | set(OPTIONAL.split())
    for path in RUNTIME:
        other = set(imports(path)) - allowed
        assert not other, f"{path.relative_to(ROOT)} imports {', '.join(other)}"


def test_forbidden_imports_are_found(tmp_path):
    path = tmp_path / "forbidden.py"
    path.write_text("import numpy\ndef f():\n    import torch.nn\nif True:\n    from timm.data import x\n")
    assert set(imports(path)) == {"numpy", "torch", "timm"}
    assert set(imports(path, top=True)) == {"numpy", "timm"}
