"""What is known while sources are read for names of TensorRT: kinds of values, the project's own names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bindings import MODULE, Bindings

Types = frozenset["Kind"]
NOTHING: Types = frozenset()
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Kind(NamedTuple):
    """What a value may be."""

    what: str
    """`module`, `class`, `instance` and `method` of TensorRT; `many` of them in a container, and what is
    `taken` out of it; `own` instance, `own class`, `file` and `function` of the project."""
    name: str = ""
    only: frozenset[str] = frozenset()
    """Versions, if it is not of all."""
    of: frozenset[Kind] = frozenset()


@dataclass(frozen=True)
class Use:
    """A name of TensorRT's, used."""

    file: str
    line: int
    owner: str
    """A class, or `module`."""
    member: str
    """`?` where it could not be read."""
    guarded: bool
    allowed: frozenset[str]
    """The versions that may come here."""

    def missing(self, table: Bindings) -> frozenset[str]:
        """Versions that lack the name and may come here unguarded; all, for a name that no version has."""
        have = table.versions(self.owner, self.member)
        if self.guarded and have:
            return frozenset()
        return self.allowed - have

    def __str__(self) -> str:
        owner = "" if self.owner == MODULE else f"{self.owner}."
        return f"{self.file}:{self.line}: {owner}{self.member}"


class Project:
    """What is known of the project's own names, growing until nothing new is found."""

    def __init__(self, sources: Mapping[str, str], table: Bindings) -> None:
        self.table = table
        self.files = {name: ast.parse(text) for name, text in sources.items()}
        self.known: dict[tuple[str, ...], set[Kind]] = defaultdict(set)
        """(function or class, name) → kinds: variables, parameters, results, attributes."""
        self.functions: dict[str, ast.AST] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        for file, tree in self.files.items():
            for node in tree.body:
                if isinstance(node, FUNCTIONS):
                    self.functions[f"{file}::{node.name}"] = node
                if isinstance(node, ast.ClassDef):
                    self.add_class(f"{file}::{node.name}", node)

    def add_class(self, key: str, node: ast.ClassDef) -> None:
        self.classes[key] = node
        for item in node.body:
            if isinstance(item, FUNCTIONS):
                self.functions[f"{key}.{item.name}"] = item

    def facts(self) -> int:
        return sum(map(len, self.known.values()))

    def imported(self, module: str, name: str) -> Kind | None:
        """What `from module import name` gives, if it is the project's."""
        path = module.replace(".", "/")
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if f"{file}::{name}" in self.classes:
                return Kind("own class", f"{file}::{name}")
            if f"{file}::{name}" in self.functions:
                return Kind("function", f"{file}::{name}")
        inner = f"{path}/{name}.py"
        return Kind("file", inner) if inner in self.files else None
