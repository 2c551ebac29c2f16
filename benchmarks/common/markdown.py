"""Markdown tables of recorded results, and the pages under docs/ that hold them between markers.

A page is written by hand.  Each table in it stands between two comments:

    <!-- NAME: written by python -m benchmarks.… -->
    <!-- end of NAME -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic import atomic_file

Row = Mapping[str, Any]
Result = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Row], str]] | str
"""For each title a key of the record, a template of the cell, or a function from the record to the cell; or
all titles and templates in one text: `what: {variant} | median, ms: {median_ms:.1f}`."""

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
DOCS = ROOT / "docs"
NONE = "–"
_PART = re.compile(r"(<!-- (\w+): written by [^\n]* -->\n)(.*?)(<!-- end of \2 -->\n)", re.DOTALL)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells: the titles, then a line for each row."""
    lines = (titles, ["---"] * len(titles), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def records(rows: Iterable[Row], columns: Columns) -> str:
    """A table with a line for each record."""
    if isinstance(columns, str):
        columns = dict(column.split(": ", 1) for column in " ".join(columns.split()).split(" | "))
    return table(list(columns), [[cell(row, column) for column in columns.values()] for row in rows])


def cell(row: Row, column: str | Callable[[Row], str]) -> str:
    """A record's text in a column; `–` where a template's figure is None or missing."""
    if callable(column):
        return column(row)
    if "{" not in column:
        return str(row[column])
    try:
        return column.format_map(row)
    except (KeyError, TypeError, AttributeError):
        return NONE


def command_of(meta: Row) -> str:
    """The recorded command as it is typed: `zoo.py --out zoo` is `python -m benchmarks.zoo --out zoo`."""
    name, *rest = str(meta.get("command", "unknown")).split(" ", 1)
    if name.endswith(".py"):
        name = f"python -m benchmarks.{name[:-3]}"
    elif name.startswith("benchmarks."):
        name = f"python -m {name}"
    return " ".join((name, *rest))


def device_of(meta: Row) -> str:
    """The device without the reason why there is no GPU."""
    device, no_gpu, _ = str(meta.get("device", "unknown")).partition("; no GPU")
    return device + no_gpu


def made(meta: Row) -> str:
    """Command, device and commit of a table."""
    commit, _, changes = str(meta.get("commit", "not kept")).partition("+")
    commit = commit[:12] + (f" with {changes}" if changes else "")
    return f"Made by `{command_of(meta)}` on {device_of(meta).partition(';')[0]}; commit: {commit}.\n"


def load(name: str) -> dict[str, Any]:
    """The recorded result `benchmarks/results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def fill(page: str, parts: Mapping[str, str]) -> str:
    """The page with the text between its markers replaced; a part that is not given is left empty."""

    def part(found: re.Match[str]) -> str:
        text = parts.get(found[2], "").strip()
        return f"{found[1]}\n{text}\n\n{found[4]}" if text else found[1] + found[4]

    return _PART.sub(part, page)


def write_page(name: str, parts: Mapping[str, str], out: Path = DOCS) -> Path:
    """Fill docs/NAME with the parts, and write it into `out`."""
    with atomic_file(out / name) as temporary:
        temporary.write_text(fill((DOCS / name).read_text(), parts))
    return out / name
