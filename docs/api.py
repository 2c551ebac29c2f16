"""docs/api.md from the docstrings of what `runtime` exports.

python docs/api.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import runtime  # noqa: E402  (this checkout's)
from runtime import errors  # noqa: E402
from runtime.index import Hit, Row  # noqa: E402

FIRST = ("Explainer", "Explanation", "Comparison", "DeviceExplanation", "Embedder")
ANOMALIES = ("Watch", "Anomaly", "Bank")
LAST = ("Package", "Manifest", "Index")


def page() -> str:
    """The whole page."""
    parts = [
        "# What `runtime` exports\n",
        "Made from the docstrings by `python docs/api.py`.\n",
        *(_class(getattr(runtime, name)) for name in (*FIRST, *ANOMALIES)),
        f"## `fit_bank{_signature(runtime.fit_bank)}`\n\n{_text(runtime.fit_bank)}",
        *(_class(getattr(runtime, name)) for name in LAST),
        *(_class(kind) for kind in (Hit, Row)),
        "## Errors\n",
        f"```\n{inspect.cleandoc(errors.__doc__ or '')}\n```\n",
    ]
    return "\n".join(parts)


def _class(kind: type) -> str:
    lines = [f"## `{kind.__name__}{_signature(kind)}`\n", _text(kind)]
    fields = _field_docs(kind) if dataclasses.is_dataclass(kind) else {}
    lines += [f"- **`{name}`** {text}" for name, text in fields.items()]
    lines += [""] if fields else []
    for name, member in _members(kind):
        if isinstance(member, property):
            lines.append(f"### `.{name}`\n\n{_text(member)}")
        else:
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            lines.append(f"### `.{name}{_signature(function)}`\n\n{_text(function)}")
    return "\n".join(lines)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, in the order of the source."""
    for name, member in vars(kind).items():
        wanted = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
        if wanted and not name.startswith("_") and inspect.getdoc(member):
            yield name, member
        elif hasattr(member, "func") and not name.startswith("_"):  # cached_property
            yield name, property(member.func)
    if "__call__" in vars(kind):
        yield "__call__", vars(kind)["__call__"]


def _field_docs(kind: type) -> dict[str, str]:
    """Each field's own docstring: the string that follows it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = " ".join(str(following.value.value).split())
            found[field.target.id] = f"`{ast.unparse(field.annotation)}` {text}".rstrip()
    return found


class _Plain:
    """An annotation that prints as it is written."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __repr__(self) -> str:
        return str(self.text)


def _signature(thing: Any) -> str:
    if dataclasses.is_dataclass(thing):
        return ""
    signature = inspect.signature(thing)
    parameters = [
        p.replace(annotation=_Plain(p.annotation))
        for name, p in signature.parameters.items()
        if name not in ("self", "cls")
    ]
    answer = _Plain(signature.return_annotation) if inspect.isfunction(thing) else signature.empty
    return str(signature.replace(parameters=parameters, return_annotation=answer))


def _text(thing: Any) -> str:
    """A docstring: prose as it is, what is indented as code."""
    blocks = re.split(
        r"((?:^    .*\n|^\n(?=    ))+)", (inspect.getdoc(thing) or "") + "\n", flags=re.MULTILINE
    )
    prose, code = blocks[::2], blocks[1::2]
    out = prose[0]
    for inside, after in zip(code, prose[1:], strict=True):
        out += f"```\n{textwrap.dedent(inside).strip()}\n```\n{after}"
    return out


if __name__ == "__main__":
    (ROOT / "docs/api.md").write_text(page())
