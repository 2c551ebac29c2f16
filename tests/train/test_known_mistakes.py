"""What docs/known-mistakes.md cites is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_cited_test_and_file_exists():
    text = (ROOT / "docs/known-mistakes.md").read_text()
    cited = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(cited) > 40
    for file, name in cited:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
    for file in re.findall(r"`((?:train|benchmarks)/[\w/]+\.py)`", text):
        assert (ROOT / file).is_file(), file
