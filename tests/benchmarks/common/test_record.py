"""What a result records about its making."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROBE = "import json\nfrom benchmarks.common.record import meta\nprint(json.dumps(meta()))\n"


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        (["-m", "probe", "--out", "a b"], "python -m probe --out 'a b'"),
        (["-m", "package", "--quick"], "python -m package --quick"),
        (["./probe.py", "x"], "probe.py x"),
    ],
)
def test_command_is_recorded_as_typed(typed, recorded, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__main__.py").write_text(PROBE)
    run = subprocess.run(
        [sys.executable, *typed],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout)["command"] == recorded
