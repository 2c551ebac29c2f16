"""A TensorRT library that has exactly the names of one version, and records which of them are used.

The names are those in tests/conformance/tensorrt_names.json.  A name that the version lacks raises
AttributeError, so `hasattr` is false and any other use of the name fails.  Calls answer True, or an object of
the class that the real call returns; `answers` has the other results.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

CONTENT = json.loads((Path(__file__).parents[3] / "conformance/tensorrt_names.json").read_text())
VERSIONS: dict[str, str] = CONTENT["versions"]
"""Label, such as `10.3` or `rtx-1.7`, to full version."""
GIVES: dict[str, str] = CONTENT["gives"]
"""`Class.property` and `Class.method()` to the class of the result, where that is one of TensorRT's."""
MODULE = "module"
"""Stands for a class in the names of the module itself."""


@functools.cache
def owners() -> dict[str, dict[str, frozenset[str]]]:
    """Class, or `MODULE`, to member to the labels of the versions that have it."""
    found: dict[str, dict[str, frozenset[str]]] = {MODULE: {}}
    for name, groups in CONTENT["classes"].items():
        own = found[name] = {}
        for labels, members in groups.items():
            versions = frozenset(VERSIONS if labels == "every version" else labels.split())
            own.update(dict.fromkeys(members.split(), versions))
        here = own.pop(".")  # the versions that have the class itself
        outer, _, inner = name.rpartition(".")
        found[outer or MODULE][inner] = here
    return found


def unknown(uses: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The uses, each a class and a member, of names that no version has."""
    return {(owner, member) for owner, member in uses if member not in owners()[owner]}


def flavour(label: str) -> str:
    """`tensorrt` or `rtx`."""
    return label.partition("-")[0] if "-" in label else "tensorrt"


class Member(int):
    """A value of an enumeration."""

    def __new__(cls, owner: str, name: str) -> Member:
        value = super().__new__(cls, sorted(owners()[owner]).index(name))
        value.name = name
        return value


class ClassOfClasses(type):
    """The members of a class, such as `BuilderFlag.TF32`."""

    def __getattr__(cls, name: str) -> Any:
        cls.library.use(cls.owner, name)
        if f"{cls.owner}.{name}" in owners():
            return cls.library.class_of(f"{cls.owner}.{name}")
        return Member(cls.owner, name) if name.isupper() else lambda *_: True

    @property
    def __members__(cls) -> dict[str, Member]:
        have = owners()[cls.owner]
        return {n: Member(cls.owner, n) for n in have if n.isupper() and cls.library.label in have[n]}


class Thing(metaclass=ClassOfClasses):
    """An object of one of the library's classes."""

    def __init__(self, *_: object) -> None:
        self._answers: dict[str, Any] = {}

    def __init_subclass__(cls) -> None:
        """A subclass in the project's code must define every method of the interface."""
        if "library" in vars(cls):
            return
        methods = {name for name, have in owners()[cls.owner].items() if cls.library.label in have}
        if missing := {name for name in methods if name.islower()} - vars(cls).keys():
            raise AttributeError(f"{cls.__name__} lacks {', '.join(sorted(missing))} of {cls.owner}")

    def __getattr__(self, name: str) -> Any:
        self.library.use(self.owner, name)
        key = f"{self.owner}.{name}"
        if name in self._answers:
            return self._answers[name]
        if key in self.library.answers:
            return self.library.answers[key]
        if key in GIVES:
            return self.library.make(GIVES[key])
        given = GIVES.get(f"{key}()")
        return lambda *_, **__: self.library.make(given) if given else True

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_") or "library" not in vars(type(self)):  # a subclass in the project's code
            super().__setattr__(name, value)
        else:
            self.library.use(self.owner, name)

    def __bytes__(self) -> bytes:
        return b"serialised"


class Library(ModuleType):
    """The module `tensorrt` or `tensorrt_rtx`, of the version with this label.

    Args:
        answers: `Class.member` to a property's value, or to the function that is called.
    """

    def __init__(self, label: str, answers: dict[str, Any]) -> None:
        name = flavour(label)
        super().__init__("tensorrt" if name == "tensorrt" else f"tensorrt_{name}")
        self.__version__, self.label, self.answers = VERSIONS[label], label, answers
        self.used: set[tuple[str, str]] = set()
        self.classes: dict[str, type[Thing]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.use(MODULE, name)
        return self.class_of(name)

    def use(self, owner: str, member: str) -> None:
        """Record a use, and raise AttributeError unless this version has the name."""
        if member.startswith("_"):
            raise AttributeError(member)
        self.used.add((owner, member))
        if self.label not in owners()[owner].get(member, ()):
            raise AttributeError(f"{owner}.{member} is not in TensorRT {self.label}")

    def class_of(self, owner: str) -> type[Thing]:
        """The class of that name; the same object each time."""
        if owner not in self.classes:
            own = {"library": self, "owner": owner}
            self.classes[owner] = ClassOfClasses(owner, (Thing,), own)
        return self.classes[owner]

    def make(self, owner: str, **answers: object) -> Thing:
        """An object of that class, with answers of its own."""
        made = self.class_of(owner)()
        made._answers.update(answers)
        return made
