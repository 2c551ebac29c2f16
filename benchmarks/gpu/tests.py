"""Run the tests that need a GPU, `pytest -m gpu`, and report how each ended and the figures of the soak.

python -m benchmarks.gpu.tests OUT.json --package x.nemu
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.record import meta, write

TESTS = Path("tests/gpu")


def main(argv: list[str] | None = None) -> int:
    """Run the tests; the report is written after every one.  Returns 1 if a test failed."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("path", type=Path, help="JSON file to write")
    p.add_argument("--package", type=Path, help="with an engine for this GPU; by default the tests make one")
    p.add_argument("--tests", type=Path, default=TESTS, help="folder (%(default)s)")
    options = p.parse_args(argv)
    outcomes = Outcomes(options.path)
    if not options.tests.is_dir():
        outcomes.skip("pytest -m gpu", f"{options.tests} does not exist")
        outcomes.save()
        return 0
    if options.package is not None:
        os.environ["NEMU_GPU_PACKAGE"] = str(options.package)
    with tempfile.TemporaryDirectory() as folder:
        soak = Path(folder) / "soak.json"
        os.environ["NEMU_SOAK_JSON"] = str(soak)
        arguments = ["-q", "-m", "gpu", "-p", "no:cacheprovider", str(options.tests)]
        status = pytest.main(arguments, plugins=[outcomes])
        if soak.is_file():
            outcomes.result["soak"] = json.loads(soak.read_text())
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        outcomes.skip("pytest -m gpu", "no test was selected")
    outcomes.save()
    return int(status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED))


class Outcomes:
    """A plugin of pytest that writes the outcome of every test to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.result: dict[str, Any] = {"meta": meta(), "tests": [], "skipped": []}

    def save(self) -> None:
        """Write the report."""
        write(self._path, self.result)

    def skip(self, what: str, why: str) -> None:
        """Note what was not run."""
        self.result["skipped"].append({"what": what, "why": why})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that ran, or whose preparation or end did not pass."""
        if report.when != "call" and report.passed:
            return
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        self.result["tests"].append({**row, "message": why[-8000:]})
        if report.skipped:
            self.skip(report.nodeid, why.removeprefix("Skipped: "))
        self.save()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            row = {"test": report.nodeid, "outcome": "failed", "seconds": 0.0}
            self.result["tests"].append({**row, "message": report.longreprtext[-8000:]})


if __name__ == "__main__":
    sys.exit(main())
