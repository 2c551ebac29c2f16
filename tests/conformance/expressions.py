"""Reading expressions for names of TensorRT: what each may be, and what it uses.  See names_used.py."""

from __future__ import annotations

import ast
import itertools

from bindings import MODULE
from facts import FUNCTIONS, NOTHING, Kind, Project, Types, Use

FLAVOURS = ("rtx", "tensorrt", "lean")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def elements(value: Types) -> Types:
    """What a container holds; a tuple is taken apart in the same way."""
    return frozenset(inner for kind in value for inner in kind.of if kind.what == "many")


class Expressions:
    """The half of the reader that looks at expressions; statements are in names_used.py."""

    def __init__(self, project: Project, file: str) -> None:
        self.project, self.table, self.file = project, project.table, file
        self.found: list[tuple[str, Use]] = []
        """Uses, each with the function (or file) that it stands in."""
        self.calls: list[tuple[str, str, frozenset[str]]] = []
        """Who calls which function of the project, and for which versions."""
        self.scopes: list[str] = [file]
        self.guards: list[set[str]] = [set()]
        self.owners: list[str] = []
        self.allowed = self.table.labels
        self.words: dict[str, list[str]] = {}

    def _value(self, node: ast.expr | None) -> Types:
        """What an expression may be; notes every use inside it."""
        if node is None:
            return NOTHING
        method = getattr(self, f"_value_{type(node).__name__}", None)
        if method:
            return method(node)
        if isinstance(node, COMPREHENSIONS):
            return self._comprehension(node)
        for part in ast.iter_child_nodes(node):
            self._part(part)
        return NOTHING

    def _value_Name(self, node: ast.Name) -> Types:
        for scope in reversed(self.scopes):
            if (scope, node.id) in self.project.known:
                if kinds := self.project.known[scope, node.id]:
                    return frozenset(kinds)
                break
        return frozenset({Kind("module")}) if node.id == "trt" else NOTHING

    def _value_Attribute(self, node: ast.Attribute) -> Types:
        return self._member(node, self._value(node.value), node.attr)

    def _member(self, node: ast.AST, owners: Types, name: str, *, guarded: bool = False) -> Types:
        result: set[Kind] = set()
        for kind in owners:
            if name.startswith("__"):
                continue
            if kind.what in ("module", "class", "instance"):
                self._note(node, kind, name, guarded=guarded)
                result |= self._inside(kind, name)
            elif kind.what == "many" and name in ("get", "pop", "values", "items", "popleft", "copy"):
                result.add(Kind("taken", name, of=kind.of))
            elif kind.what == "own":
                if f"{kind.name}.{name}" in self.project.functions:
                    result.add(Kind("function", f"{kind.name}.{name}", of=frozenset({kind})))
                result |= self.project.known.get((kind.name, name), set())
            elif kind.what == "file":
                result |= self.project.known.get((kind.name, name), set())
                inner = self.project.imported(kind.name.removesuffix(".py").replace("/", "."), name)
                result |= {inner} if inner else set()
        # A property of the project's own is read, not called.
        return frozenset().union(*(self._property(kind) for kind in result))

    def _property(self, kind: Kind) -> Types:
        node = self.project.functions.get(kind.name) if kind.what == "function" else None
        names = [ast.unparse(d).rpartition(".")[2] for d in getattr(node, "decorator_list", [])]
        if kind.of and ("property" in names or "cached_property" in names):
            return frozenset(self.project.known.get((kind.name, "return"), set()))
        return frozenset({kind})

    def _inside(self, kind: Kind, name: str) -> set[Kind]:
        """What a member of TensorRT's is."""
        path = name if kind.what == "module" else f"{kind.name}.{name}"
        if self.table.is_class(path):
            return {Kind("class", path, kind.only)}
        if kind.what == "module":
            return set()
        if given := self.table.property(kind.name, name):
            return {Kind("instance", given, kind.only)}
        if given := self.table.called(kind.name, name):
            return {Kind("method", given, kind.only)}
        return set()

    def _value_Call(self, node: ast.Call) -> Types:
        arguments = [self._value(argument) for argument in node.args]
        keywords = {keyword.arg or "": self._value(keyword.value) for keyword in node.keywords}
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("getattr", "hasattr") and len(node.args) > 1:
            return self._by_string(node, arguments[0], guarded=name == "hasattr" or len(node.args) > 2)
        if name == "library" or ast.unparse(node.func).endswith(".library"):
            words = [self._only(word) for word in self._strings(node.args[0])] if node.args else []
            return frozenset({Kind("module", only=frozenset().union(*words))})
        if name in ("list", "tuple", "sorted", "reversed", "set", "iter"):
            return arguments[0] if arguments else NOTHING
        if name in ("min", "max", "next"):
            return elements(arguments[0]) if arguments else NOTHING
        result: set[Kind] = set()
        for kind in self._value(node.func):
            result |= self._called(kind, node, arguments, keywords)
        return frozenset(result)

    def _called(
        self, kind: Kind, node: ast.Call, arguments: list[Types], keywords: dict[str, Types]
    ) -> set[Kind]:
        if kind.what == "class":
            return {Kind("instance", kind.name, kind.only)}
        if kind.what == "taken":
            return {Kind("many", of=kind.of)} if kind.name in ("values", "copy") else set(kind.of)
        if kind.what == "method":
            return {Kind("instance", kind.name, kind.only)}
        if kind.what == "own class":
            self._construct(kind.name, arguments, keywords)
            return {Kind("own", kind.name)}
        if kind.what == "function":
            return self._apply(kind, arguments, keywords)
        return set()

    def _construct(self, key: str, arguments: list[Types], keywords: dict[str, Types]) -> None:
        if f"{key}.__init__" in self.project.functions:
            self._apply(
                Kind("function", f"{key}.__init__", of=frozenset({Kind("own", key)})), arguments, keywords
            )
            return
        body = self.project.classes[key].body
        fields = [
            item.target.id
            for item in body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        for field, value in (*zip(fields, arguments, strict=False), *keywords.items()):
            self._know((key, field), value)

    def _apply(self, kind: Kind, arguments: list[Types], keywords: dict[str, Types]) -> set[Kind]:
        """Bind arguments; the result, which is the argument itself where the function hands it back."""
        self.calls.append((self._function(), kind.name, self.allowed))
        function = self.project.functions[kind.name]
        assert isinstance(function, FUNCTIONS)
        static = any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        names = names[1:] if kind.of and not static else names
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        for name, value in given.items():
            self._know((kind.name, name), value)
        returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
        if returned and all(isinstance(n, ast.Name) and n.id in given for n in returned):
            return set().union(*(given[n.id] for n in returned if isinstance(n, ast.Name)))
        return self.project.known.get((kind.name, "return"), set())

    def _by_string(self, node: ast.Call, owners: Types, *, guarded: bool) -> Types:
        """`getattr` and `hasattr`: the name is a string, or loops over some; what cannot be read is `?`."""
        words = self._strings(node.args[1])
        if not words and not guarded:
            self._member(node, frozenset(kind for kind in owners if kind.what != "class"), "?")
        results = [self._member(node, owners, word, guarded=guarded) for word in words]
        return frozenset().union(*results)

    def _comprehension(self, node: ast.expr) -> Types:
        for generator in node.generators:  # type: ignore[attr-defined]
            self._loop(generator.target, generator.iter)
            for test in generator.ifs:
                self._value(test)
        if isinstance(node, ast.DictComp):
            self._value(node.key)
        value = self._value(node.value if isinstance(node, ast.DictComp) else node.elt)  # type: ignore[attr-defined]
        return frozenset({Kind("many", of=value)}) if value else NOTHING

    def _value_Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Types:
        value = frozenset().union(*map(self._value, node.elts))
        return frozenset({Kind("many", of=value)}) if value else NOTHING

    _value_List = _value_Set = _value_Tuple

    def _value_Dict(self, node: ast.Dict) -> Types:
        for key in node.keys:
            self._value(key)
        value = frozenset().union(*map(self._value, node.values))
        return frozenset({Kind("many", of=value)}) if value else NOTHING

    def _value_Subscript(self, node: ast.Subscript) -> Types:
        self._value(node.slice)
        return elements(self._value(node.value))

    def _value_Starred(self, node: ast.Starred) -> Types:
        return elements(self._value(node.value))

    def _value_IfExp(self, node: ast.IfExp) -> Types:
        self._value(node.test)
        both = self._branch(node.test, lambda: self._value(node.body), lambda: self._value(node.orelse))
        return frozenset().union(*both)  # type: ignore[arg-type]

    def _value_BoolOp(self, node: ast.BoolOp) -> Types:
        return frozenset().union(*map(self._value, node.values))

    def _value_NamedExpr(self, node: ast.NamedExpr) -> Types:
        value = self._value(node.value)
        self._bind(node.target, value, node.value)
        return value

    def _note(self, node: ast.AST, kind: Kind, member: str, *, guarded: bool = False) -> None:
        owner = MODULE if kind.what == "module" else kind.name
        if owner == MODULE and member.islower():
            return  # helpers and modules of the package; classes are what the snapshot lists
        asked = any(member in names for names in self.guards)
        allowed = self.allowed & kind.only if kind.only else self.allowed
        if kind.what == "instance":  # there is none where there is no such class
            allowed &= self.table.versions(MODULE, owner.partition(".")[0])
        use = Use(self.file, node.lineno, owner, member, guarded or asked, allowed)  # type: ignore[attr-defined]
        self.found.append((self._function(), use))

    def _function(self) -> str:
        return next(scope for scope in reversed(self.scopes) if scope not in self.project.classes)

    def _strings(self, node: ast.expr | None) -> list[str]:
        """The strings that a constant, or a tuple or dict of them, holds."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.Name):
            return self.words.get(node.id, [])
        if isinstance(node, ast.Starred):
            return self._strings(node.value)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
            parts = [self._strings(part) for part in (node.keys if isinstance(node, ast.Dict) else node.elts)]
            return list(itertools.chain(*parts)) if all(parts) else []
        return []

    def _comes(self, test: ast.expr, *, said: bool) -> frozenset[str]:
        """The versions for which a test is true (`said`) or false: it compares a flavour, or asks hasattr."""
        every = self.table.labels
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._comes(test.operand, said=not said)
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) is said:
            return frozenset.intersection(*(self._comes(part, said=said) for part in test.values))
        named: frozenset[str] = frozenset()
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and "flavour" in ast.unparse(test.left):
            words = [word for word in self._strings(test.comparators[0]) if word in FLAVOURS]
            named = frozenset().union(*map(self._only, words))
            if isinstance(test.ops[0], (ast.NotEq, ast.NotIn)):
                said = not said
            elif not isinstance(test.ops[0], (ast.Eq, ast.In)):
                return every
        elif isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr" and len(test.args) == 2:
            kinds = [k for k in self._value(test.args[0]) if k.what in ("module", "class", "instance")]
            have = [
                self.table.versions(k.name or MODULE, w) for k in kinds for w in self._strings(test.args[1])
            ]
            named = frozenset().union(*have)
        if not named:
            return every
        return named if said else every - named

    def _only(self, flavour: str) -> frozenset[str]:
        return self.table.of_flavour(flavour)

    def _branch(self, test: ast.expr, then: object, otherwise: object) -> list[object]:
        before, results = self.allowed, []
        for said, work in ((True, then), (False, otherwise)):
            self.allowed = before & self._comes(test, said=said)
            results.append(work())  # type: ignore[operator]
        self.allowed = before
        return results
