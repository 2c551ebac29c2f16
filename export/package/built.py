"""Engines that were built and are not written yet, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.errors import ExportError, NemuError, ParityError
from runtime.package.manifest import EngineRecord
from runtime.package.reasons import Reason, sentence


class Plan(NamedTuple):
    """An engine that is not written yet."""

    plan: bytes
    record: EngineRecord


class Attempts(NamedTuple):
    """What the tries of one job came to, in one precision after another."""

    precision: str | None
    """The first that passed every check; None if none did."""
    plan: Plan | None
    """None if no engine was to be built, or is there already in that precision."""
    refused: dict[str, NemuError]
    """Precision that was tried before → what stood against it."""


@dataclass(frozen=True)
class Built:
    """What `build` made; nothing of it is written yet."""

    engines: dict[str, Plan] = field(default_factory=dict)
    """Name → plan and sidecar."""
    checked: dict[str, list[str]] = field(default_factory=dict)
    """Target whose engines are built elsewhere → for each form whose graph breaks no rule, the options that
    build its engine there."""
    left_out: dict[str, dict[str, Reason]] = field(default_factory=dict)
    """Engine that was asked for and not built → precision that was tried → what stood against it."""
    notes: list[str] = field(default_factory=list)
    """Which engine has another precision than the first choice, and why; what became of older engines."""
    stale: list[str] = field(default_factory=list)
    """Engines that are there already, in a precision that was refused now."""
    failures: list[NemuError] = field(default_factory=list)
    """The errors behind `left_out`."""

    @property
    def failure(self) -> NemuError | None:
        """What to raise if nothing was built of all that was asked for; None if something was."""
        if self.engines or not self.failures:
            return None
        if len(self.failures) == 1:
            return self.failures[0]
        kind = ParityError if all(isinstance(e, ParityError) for e in self.failures) else ExportError
        return kind(
            "nothing of what was asked for passes\n    "
            + "\n    ".join(f"{job}: {sentence(why)}" for job, why in self.left_out.items()),
            expected="for each GPU one precision that passes every check",
            cure="each line says what stands against it; choose other GPUs with --target",
        )
