"""Every name of CUDA's APIs that the project uses is in the installed cuda-bindings.

`tests/runtime/backends/tensorrt/test_tensorrt_names.py` checks the names of TensorRT.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "export", "benchmarks")
CUDA_NAME = re.compile(r"^(cu(da)?[A-Z]|CU[a-z_]|CUDA_ERROR_)\w+$")


def cuda_complaints(text: str, file: str) -> list[str]:
    """Names of CUDA in a source that the installed cuda-bindings lack.

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
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
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
