"""What the TensorRT bindings hold, as the snapshot says: which versions have a name, what a call gives."""

from __future__ import annotations

import functools
import json
from pathlib import Path

EVERY = "every version"
MODULE = "module"
"""In place of a class: the names of the module itself."""


class Bindings:
    """The snapshot, ready to be asked."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.labels = frozenset(content["versions"])
        self._gives: dict[str, str] = content["gives"]
        self._have: dict[str, dict[str, frozenset[str]]] = {MODULE: {}}
        for name, groups in content["classes"].items():
            own = self._have[name] = {}
            for labels, members in groups.items():
                versions = self.labels if labels == EVERY else frozenset(labels.split())
                own.update(dict.fromkeys(members.split(), versions))
            here = own.pop(".")
            outer, _, inner = name.rpartition(".")
            (self._have[outer] if outer else self._have[MODULE])[inner or name] = here

    def is_class(self, name: str) -> bool:
        """Whether `name`, such as `Builder` or `ILogger.Severity`, is a class of any version."""
        return name in self._have and name != MODULE

    def members(self, owner: str) -> frozenset[str]:
        """Every member that `owner` has in some version."""
        return frozenset(self._have[owner])

    def versions(self, owner: str, member: str) -> frozenset[str]:
        """Labels of the versions in which `owner` has `member`; empty for a name that none has."""
        return self._have[owner].get(member, frozenset())

    def property(self, owner: str, member: str) -> str | None:
        """The class of a property, where it is one of TensorRT's."""
        return self._gives.get(f"{owner}.{member}")

    def called(self, owner: str, member: str) -> str | None:
        """The class of what a method gives, where it is one of TensorRT's."""
        return self._gives.get(f"{owner}.{member}()")

    @staticmethod
    def flavour(label: str) -> str:
        """`tensorrt`, `rtx` or `lean`."""
        return label.partition("-")[0] if "-" in label else "tensorrt"

    def of_flavour(self, flavour: str) -> frozenset[str]:
        """Labels of a flavour's versions."""
        return frozenset(label for label in self.labels if self.flavour(label) == flavour)


@functools.cache
def bindings() -> Bindings:
    """The project's own snapshot."""
    return Bindings(Path(__file__).with_name("tensorrt_names.json"))
