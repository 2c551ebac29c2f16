"""Errors that carry a reason as a code and numbers, so that a package can store it."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from runtime.errors import NemuError
from runtime.package.reasons import CODES, Reason, sentence

Error = TypeVar("Error", bound=NemuError)


def refusal(kind: type[Error], code: str, *, expected: str, cure: str, **facts: Any) -> Error:
    """An error whose `came` is the sentence of a reason.

    Args:
        code: of `runtime.package.reasons.CODES`.
        facts: the numbers and names that the sentence needs; plain JSON values.
    """
    reason = {"code": code, **facts}
    error = kind(CODES[code](reason), expected=expected, cure=cure)
    error.reason = reason
    return error


def reason_of(error: NemuError) -> Reason:
    """The reason that an error carries; its message, without the cures in it, if it carries none."""
    if error.reason is not None:
        return error.reason
    lines = [line.strip() for line in error.came.splitlines()]
    return {"code": "error", "said": " ".join(line for line in lines if not line.startswith("cure:"))}


def left_out(what: str, reason: Reason) -> Reason:
    """The reason, after a warning that names it."""
    print(f"warning: {what} is left out: {sentence(reason)}", file=sys.stderr)
    return reason


def refused_key(precision: str, *, toward: bool = False) -> str:
    """The key in `Manifest.refused` for the graph of a precision, or for its form that takes targets."""
    return f"{precision} toward targets" if toward else precision
