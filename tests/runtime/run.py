"""Run a command of nemu, and read the journal that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.__main__ import main
from runtime.bulk.journal import LINES


def run(*words: object) -> int:
    return main([str(word) for word in words])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]
