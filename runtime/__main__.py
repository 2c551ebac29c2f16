"""nemu explain | compare | report | assess | bank | anomalies | diff | index | search …

Also `python -m runtime …`.
"""

from __future__ import annotations

import sys

from runtime.cli import console
from runtime.cli.parser import parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = parser().parse_args(argv)
    return console.exit_code(
        lambda: arguments.command(arguments),
        stopped="finished results are kept, no incomplete file was left behind",
    )


if __name__ == "__main__":
    sys.exit(main())
