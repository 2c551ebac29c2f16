"""Read dataclasses from JSON: no unknown field, no missing field, every value of its type."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

from runtime.errors import SchemaError


def json_object(text: str, source: str) -> dict[str, Any]:
    """Parse the text of a JSON object; `source` names it in errors.  Raises `SchemaError`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(source, f"is not JSON ({error})" if text.strip() else "is empty") from error
    if not isinstance(value, dict):
        raise _malformed(source, f"holds a {type(value).__name__}")
    return value


def _malformed(source: str, what: str) -> SchemaError:
    return SchemaError(
        f"{source} {what}",
        expected="a JSON object with the fields that nemu build writes",
        cure="copy the package again, or build it again with nemu build",
    )


def read(kind: Any, value: Any, where: str) -> Any:
    """Read a value from JSON as a dataclass or another type, nested ones included.

    Args:
        kind: the type, also as the annotation of a field.
        where: names it in errors.

    Raises:
        SchemaError: it is of another type, or a field is missing or unknown.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        for arm in arguments:
            if _may_be(arm, value):
                return read(arm, value, where)
    elif dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    elif origin is tuple and isinstance(value, list):
        many = arguments[-1] is Ellipsis
        if many or len(value) == len(arguments):
            kinds = [arguments[0]] * len(value) if many else arguments
            return tuple(read(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {k: read(arguments[1], v, f"{where}: {k}") for k, v in value.items()}
    elif _may_be(kind, value):
        return value
    raise _malformed(where, f"is {value!r}, not {kind}")


def _may_be(kind: Any, value: Any) -> bool:
    """Whether a JSON value has the outer type of `kind`; an integer may stand for a float."""
    if dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    origin = {tuple: list}.get(typing.get_origin(kind), typing.get_origin(kind))
    return kind is Any or type(value) is (origin or kind) or (kind is float and type(value) is int)


def _read_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _malformed(where, f"is a {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    missing = (dataclasses.MISSING, dataclasses.MISSING)
    needed = {f.name for f in dataclasses.fields(kind) if (f.default, f.default_factory) == missing}
    if odd := (needed - set(value)) | (set(value) - set(hints)):
        raise _malformed(where, "has missing or unknown fields: " + ", ".join(sorted(odd)))
    return kind(**{k: read(hints[k], v, f"{where}: {k}") for k, v in value.items()})
