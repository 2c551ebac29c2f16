"""The public interface: exported names, signatures, docstrings and the exit codes of errors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import runtime
from runtime import Explainer, Explanation, NemuError, errors

ROOT = Path(__file__).parents[1]


def test_all_lists_every_exported_name():
    public = {
        name
        for name, value in vars(runtime).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public | {"__version__"} == set(runtime.__all__)


def test_signature_of_explainer_and_names_of_explanation():
    assert str(inspect.signature(Explainer.__init__)) == (
        "(self, package: 'str | os.PathLike[str] | Package', *, backend: 'str | Backend' = 'auto', "
        "device: 'int' = 0, channel_order: 'str' = 'rgb', precision: 'str | None' = None) -> 'None'"
    )
    members = {"compare", "stream", "close", "backend", "manifest", "embedding_id", "__enter__", "__exit__"}
    assert members <= set(dir(Explainer))
    fields = {field.name for field in dataclasses.fields(Explanation)}
    assert {"embedding", "graph_mask", "image", "embedding_id", "timing"} <= fields
    assert {"mask", "valid", "overlay", "save"} <= set(dir(Explanation))


def test_every_error_is_exported_and_documented():
    found = re.findall(r"^class (\w+)", inspect.getsource(errors), re.MULTILINE)
    assert set(found) <= set(runtime.__all__)
    assert [name for name in found if name not in (errors.__doc__ or "")] == []


def test_error_text_has_came_expected_cure():
    error = errors.InputError("a cat", expected="a dog", cure="bark")
    assert str(error) == "a cat\n  expected: a dog\n  cure: bark"
    assert (error.came, error.expected, error.cure) == ("a cat", "a dog", "bark")
    assert NemuError.exit_code == 1
    assert errors.ParityError.exit_code == 3


def test_public_names_of_the_runtime_have_docstrings():
    """A method may leave its docstring to the base class that is named in its class."""
    documented, missing = set(), []
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        module = ast.parse(path.read_text())
        assert ast.get_docstring(module), path
        for node in module.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            assert ast.get_docstring(node), f"{path.name}: {node.name}"
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                    continue
                if ast.get_docstring(method):
                    documented.add((node.name, method.name))
                elif not any("overload" in ast.unparse(d) for d in method.decorator_list):
                    missing.append((path.name, node, method.name))
    for name, owner, method in missing:
        bases = {ast.unparse(base) for base in owner.bases}
        assert any((base, method) in documented for base in bases), f"{name}: {owner.name}.{method}"
