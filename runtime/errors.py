"""The errors that this project raises on purpose.

Each error says what came, what was expected, and the cure.  The commands print that text and exit with the
class's `exit_code`: 1, or 3 if the parity gate failed (2 is a usage error).
"""

from __future__ import annotations

from typing import Any


class NemuError(Exception):
    """Base class of all errors of this project.

    Args:
        came: what was found, with the name of the thing (a path, a shape, a version).
        expected: what would have been accepted.
        cure: what to do next, if possible a command.
    """

    exit_code = 1
    reason: dict[str, Any] | None = None
    """What came, as a code and numbers (`runtime.package.reasons`), where a package stores it."""

    def __init__(self, came: str, *, expected: str, cure: str) -> None:
        super().__init__(f"{came}\n  expected: {expected}\n  cure: {cure}")
        self.came = came
        self.expected = expected
        self.cure = cure


class InputError(NemuError):
    """An image, a folder or an option that cannot be used."""


class OutputExists(NemuError):
    """Something is already where the result should go."""


class PackageError(NemuError):
    """A package that cannot be trusted or read."""


class IntegrityError(PackageError):
    """A file of the package is missing or is not the one that was written."""


class SchemaError(PackageError):
    """A manifest that is empty, malformed, or written by a newer version."""


class BackendError(NemuError):
    """The backend was there and failed while working."""


class BackendUnavailable(BackendError):
    """A library, driver or device that the backend needs is not here."""


class EngineMismatch(BackendError):
    """An engine built for another device or another version of its library."""


class UnusableOutput(BackendError):
    """Outputs that are no answer: values that are not finite or outside their range, another shape."""


class MaskerMismatch(NemuError):
    """A masker that was trained for another encoder."""


class ExportError(NemuError):
    """A graph or an engine that could not be built."""


class ParityError(NemuError):
    """Two backends disagree by more than the gate allows."""

    exit_code = 3
