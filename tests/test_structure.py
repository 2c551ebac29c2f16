"""The structure that readers rely on: small folders, short functions, imports in one direction."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "train", "export", "demo", "benchmarks")
# In each line a folder may import those before it, and none after it.
ORDERS = (
    "runtime train export demo tests",
    "runtime train export benchmarks tests",
    "runtime.package runtime.media runtime.backends runtime.anomaly runtime.bulk runtime.index runtime.cli",
    "runtime.backends.cuda runtime.backends.tensorrt",
    "export.graph export.int8 export.engine export.package",
    "benchmarks.common benchmarks.quality.metrics benchmarks.quality.planted benchmarks.quality.natural "
    "benchmarks.quality.toward",
    "benchmarks.common benchmarks.quality benchmarks.latency benchmarks.gpu",
    "benchmarks.common benchmarks.quality benchmarks.pages",
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def arrows() -> Mapping[str, set[str]]:
    """Each module of the project, and the modules that it imports anywhere, without the packages it is in."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in sources(*PACKAGES, "tests")}
    modules = {".".join(short.parts).removesuffix(".__init__"): path for short, path in paths.items()}
    found = {name: imported(path.read_text(), modules) for name, path in modules.items()}
    return {name: {m for m in to if not f"{name}.".startswith(f"{m}.")} for name, to in found.items()}


def imported(text: str, modules: Mapping[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & set(modules)) or {node.module}
    parents = {name.rpartition(".")[0] for name in found & set(modules)}  # importing a.b.c imports a.b
    return (found | parents) & set(modules)


def functions(*folders: str) -> Iterator[tuple[int, str]]:
    for path in sources(*folders):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                yield lines, f"{path.relative_to(ROOT)}: {node.name}, {lines} lines"


def test_no_import_circle():
    TopologicalSorter(arrows()).prepare()
    with pytest.raises(CycleError):  # the check can fail
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


@pytest.mark.parametrize("order", ORDERS)
def test_folders_import_in_one_direction(order: str):
    folders = order.split()
    for index, folder in enumerate(folders):
        mine = {name: to for name, to in arrows().items() if f"{name}.".startswith(f"{folder}.")}
        assert mine, f"no module in {folder}"
        for name, to in mine.items():
            upward = [m for m in to for later in folders[index + 1 :] if f"{m}.".startswith(f"{later}.")]
            assert not upward, f"{name} imports {', '.join(upward)}"


def test_no_folder_over_18_modules():
    counts: dict[Path, int] = {}
    for path in sources(*PACKAGES, "tests"):
        if path.name not in ("__init__.py", "__main__.py"):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {str(folder): n for folder, n in counts.items() if n > 18} == {}


def test_functions_are_short():
    assert [text for lines, text in functions(*PACKAGES, "tests") if lines > 50] == []
    lengths = sorted(functions(*PACKAGES))
    assert lengths[int(0.95 * len(lengths))][0] <= 28


def test_code_imports_benchmarks_by_full_name():
    """Short names are for commands: an import by one would load a module twice."""
    short = {f"benchmarks.{path.stem}" for path in sources("benchmarks") if path.parent.name != "benchmarks"}
    for path in sources(*PACKAGES, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not (names & short) - set(arrows()), f"{path.relative_to(ROOT)}: {names & short}"


def test_docstrings_begin_with_a_subject_or_verb():
    for path in sources(*PACKAGES, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                text = str(node.value.value).strip()
                assert not text.startswith(("Of ", "The same ")), f"{path.relative_to(ROOT)}: {text[:60]}"


def test_names_of_tests_have_at_most_eight_words():
    for path in sources("tests"):
        for name in re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE):
            assert name.count("_") < 8, f"{path.relative_to(ROOT)}: test_{name}"
