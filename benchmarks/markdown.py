"""A Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Titles and cells, one line each."""
    lines = (titles, ["---"] * len(titles), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
