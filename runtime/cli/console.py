"""Shared by all commands: --json and --quiet, and the exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from runtime.errors import NemuError


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")


def answer(arguments: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    """Print `facts` with --json, nothing with --quiet, otherwise `text`, which ends with the next step."""
    if arguments.json:
        print(json.dumps(facts, indent=2))
    elif not arguments.quiet:
        print(text)


def exit_code(
    command: Callable[[], int], *, stopped: str, failures: tuple[type[Exception], ...] = (OSError,)
) -> int:
    """Run a command; print errors on stderr.

    Args:
        stopped: printed after Ctrl-C.
        failures: other errors that a user may meet, such as a full disk or a read-only folder.

    Returns:
        The exit code of `command`; 1 after an error, 3 after a failed gate, 130 after Ctrl-C.
    """
    try:
        return command()
    except NemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130
