"""Which names of TensorRT the project's sources use, found by reading them: file, line, class, member.

A small abstract interpreter.  A value is a set of `Kind`s; it begins at what `library(...)` gives and at
every `trt`, and is followed through assignments, attributes of `self`, arguments and results of the
project's own functions, containers and loops.  What a call of TensorRT gives is read from the signatures in
the bindings.  Values of which nothing is known are not looked at.

A name is *guarded* if `hasattr(..., "name")` is asked in the function around it (or one around that), or if
it is the name in `getattr(..., "name", default)`.  Code under `if flavour == "rtx"` or `if hasattr(...)`,
after `if flavour != "rtx": return`, or on `library("rtx")` is only reached by the versions of which that is
true, and so are functions that are called only there.
The name of an enum's member may be made at run time, that of anything else may not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace

from bindings import Bindings
from expressions import Expressions, elements
from facts import FUNCTIONS, NOTHING, Kind, Project, Types, Use

ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def uses(sources: Mapping[str, str], table: Bindings) -> list[Use]:
    """Every use in the sources: file name, such as `runtime/backends/cuda.py` → text."""
    project = Project(sources, table)
    for _ in range(12):  # facts travel one call or attribute a round
        before = project.facts()
        readers = [_Reader(project, file) for file in project.files]
        for reader in readers:
            reader.read()
        if project.facts() == before:
            break
    else:
        raise RecursionError("the types in the sources do not settle")
    comes = _contexts([call for reader in readers for call in reader.calls])
    found = {
        replace(use, allowed=use.allowed & comes.get(function, table.labels))
        for reader in readers
        for function, use in reader.found
    }
    return sorted(found, key=lambda use: (use.file, use.line, use.owner, use.member))


def _contexts(calls: list[tuple[str, str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    """The versions that may come to each function the sources call; from (caller, function, versions)."""
    called = {function for caller, function, _ in calls if caller != function}
    comes: dict[str, frozenset[str]] = dict.fromkeys(called, frozenset())
    while True:
        before = dict(comes)
        for caller, function, allowed in calls:
            if function in comes:
                comes[function] |= allowed & comes.get(caller, allowed)
        if comes == before:
            return comes


class _Reader(Expressions):
    """One round over one file."""

    def read(self) -> None:
        """Fill `found` and `calls`."""
        self._block(self.project.files[self.file].body)

    # statements

    def _block(self, body: list[ast.stmt]) -> None:
        before = self.allowed
        for statement in body:
            self._statement(statement)
            if isinstance(statement, ast.If) and isinstance(statement.body[-1], ENDS):
                self.allowed &= self._comes(statement.test, said=False)
        self.allowed = before

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            self._definition(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            value = self._value(node.value) if node.value else NOTHING
            if isinstance(node, ast.AnnAssign):
                value |= self._annotated(node.annotation)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._bind(target, value, node.value)
        elif isinstance(node, ast.Return) and node.value:
            self._know((self.scopes[-1], "return"), self._value(node.value))
        elif isinstance(node, ast.If):
            self._value(node.test)
            self._branch(node.test, lambda: self._block(node.body), lambda: self._block(node.orelse))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self._loop(node.target, node.iter)
            self._block(node.body + node.orelse)
        else:
            for part in ast.iter_child_nodes(node):
                self._part(part)

    def _part(self, part: ast.AST) -> None:
        """A piece of a statement that only holds others: with, while, try, match, expression statements."""
        if isinstance(part, ast.stmt):
            self._statement(part)
        elif isinstance(part, ast.expr):
            self._value(part)
        elif isinstance(part, ast.withitem):
            value = self._value(part.context_expr)
            if part.optional_vars:
                self._bind(part.optional_vars, value, None)
        else:
            for inner in ast.iter_child_nodes(part):
                self._part(inner)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        outer = self.scopes[-1]
        key = f"{outer}.{node.name}" if outer in self.project.classes else f"{outer}::{node.name}"
        for decorator in node.decorator_list:
            self._value(decorator)
        if isinstance(node, ast.ClassDef):
            self.project.add_class(key, node)
            self._know((outer, node.name), frozenset({Kind("own class", key)}))
            for base in node.bases:
                for kind in self._value(base):
                    if kind.what == "class":
                        self._override(node, kind)
            self.owners.append(key)
        else:
            self.project.functions[key] = node
            if outer not in self.project.classes:  # a method is looked up on its object
                self._know((outer, node.name), frozenset({Kind("function", key)}))
            self._parameters(node, key)
            self.guards.append(_guards(node))
        self.scopes.append(key)
        self._block(node.body)
        self.scopes.pop()
        (self.owners if isinstance(node, ast.ClassDef) else self.guards).pop()

    def _override(self, node: ast.ClassDef, base: Kind) -> None:
        """A subclass of an interface must define what TensorRT calls; a misspelt method would be an extra."""
        own = {item.name for item in node.body if isinstance(item, FUNCTIONS)}
        for member in self.table.members(base.name):
            if member.islower() and member not in own:
                self._note(node, base, f"{member} (not defined by {node.name})")

    def _parameters(self, node: ast.FunctionDef | ast.AsyncFunctionDef, key: str) -> None:
        method = bool(self.owners) and self.scopes[-1] == self.owners[-1]
        for index, argument in enumerate((*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)):
            if method and index == 0:
                self._know((key, argument.arg), frozenset({Kind("own", self.owners[-1])}))
            elif argument.annotation:
                self._know((key, argument.arg), self._annotated(argument.annotation))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                kind = self.project.imported(node.module or "", alias.name)
                if kind:
                    self._know((self.scopes[-1], alias.asname or alias.name), frozenset({kind}))
            return
        for alias in node.names:
            if alias.name in ("tensorrt", "tensorrt_rtx", "tensorrt_lean"):
                kind = Kind("module", only=self._only(alias.name.removeprefix("tensorrt_")))
                self._know((self.scopes[-1], alias.asname or alias.name), frozenset({kind}))

    # what is known

    def _know(self, key: tuple[str, ...], kinds: Types) -> None:
        self.project.known[key] |= kinds

    def _bind(self, target: ast.expr, value: Types, source: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self._know((self.scopes[-1], target.id), value)
            if words := self._strings(source):
                self.words[target.id] = words
        elif isinstance(target, ast.Attribute):
            for kind in self._value(target.value):
                if kind.what == "own":
                    self._know((kind.name, target.attr), value)
                elif kind.what == "instance":
                    self._note(target, kind, target.attr)
        elif isinstance(target, (ast.Tuple, ast.List)):
            sources = source.elts if isinstance(source, (ast.Tuple, ast.List)) else None
            for index, part in enumerate(target.elts):
                one = sources[index] if sources and len(sources) == len(target.elts) else None
                self._bind(part, self._value(one) if one else elements(value), one)
        elif isinstance(target, ast.Subscript):
            self._bind(target.value, frozenset({Kind("many", of=value)}), None)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value, None)

    def _loop(self, target: ast.expr, source: ast.expr) -> None:
        self._bind(target, elements(self._value(source)), None)
        if isinstance(target, ast.Name) and (words := self._strings(source)):
            self.words[target.id] = words

    def _annotated(self, annotation: ast.expr) -> Types:
        kinds = self._value(annotation) if isinstance(annotation, (ast.Name, ast.Attribute)) else NOTHING
        return frozenset(Kind("own", kind.name) for kind in kinds if kind.what == "own class")


def _guards(function: ast.AST) -> set[str]:
    """The names that `hasattr` is asked for in a function."""
    return set(_asked(function))


def _asked(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr" and len(node.args) == 2:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value
