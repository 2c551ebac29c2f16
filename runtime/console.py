"""What all commands have in common: --json and --quiet, and the codes they exit with."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from runtime.errors import NemuError


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """`--json` and `--quiet`, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of words")
    parser.add_argument("--quiet", action="store_true", help="no progress, no words; but warnings and errors")


def answer(arguments: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    """Print `facts` with --json, nothing with --quiet, otherwise `text`; its last line says what is next."""
    if arguments.json:
        print(json.dumps(facts, indent=2))
    elif not arguments.quiet:
        print(text)


def exit_code(
    command: Callable[[], int], *, stopped: str, failures: tuple[type[Exception], ...] = (OSError,)
) -> int:
    """Run a command; what goes wrong is told on stderr.

    Args:
        stopped: what to say after Ctrl-C.
        failures: what else may happen to a user: a full disk, a folder that may not be written.

    Returns:
        What `command` returns; 1 after an error, 3 after a failed gate, 130 after Ctrl-C.
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
