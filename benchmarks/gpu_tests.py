"""The tests that need a GPU, `pytest -m gpu`: how each ended, and the figures of the soak.

python -m benchmarks.gpu_tests OUT.json --package x.nemu
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.record import meta, write

TESTS = Path("tests/gpu")
NO_TESTS = 5
"""pytest's exit status where nothing was selected."""


def main(argv: list[str] | None = None) -> int:
    """Run them and write the report; 1 if one failed."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("path", type=Path, help="JSON file to write")
    p.add_argument("--package", type=Path, help="with an engine for this GPU; by default the tests make one")
    p.add_argument("--tests", type=Path, default=TESTS, help="folder (%(default)s)")
    options = p.parse_args(argv)
    result: dict[str, Any] = {"meta": meta(), "tests": [], "skipped": []}
    if not options.tests.is_dir():
        result["skipped"].append({"what": "pytest -m gpu", "why": f"there is no {options.tests}"})
        write(options.path, result)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        junit, soak = Path(folder) / "junit.xml", Path(folder) / "soak.json"
        environment = {**os.environ, "NEMU_SOAK_JSON": str(soak)}
        if options.package is not None:
            environment["NEMU_GPU_PACKAGE"] = str(options.package)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        command += [f"--junitxml={junit}", str(options.tests)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if junit.is_file():
            result["tests"] = read(junit)
        if soak.is_file():
            result["soak"] = json.loads(soak.read_text())
    skipped = [test for test in result["tests"] if test["outcome"] == "skipped"]
    result["skipped"] += [{"what": test["test"], "why": test["message"]} for test in skipped]
    if done.returncode == NO_TESTS:
        result["skipped"].append({"what": "pytest -m gpu", "why": "no test was selected"})
    failed = done.returncode not in (0, NO_TESTS)
    if failed:
        result["output"] = (done.stdout + done.stderr)[-8000:]
    write(options.path, result)
    return int(failed)


def read(junit: Path) -> list[dict[str, Any]]:
    """Test, outcome, seconds and message of every case of a JUnit file."""
    cases = []
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        ends = {end.tag: end.get("message", "") for end in case if end.tag in ("skipped", "failure", "error")}
        outcome = next(iter(ends), "passed")
        cases.append(
            {
                "test": f"{case.get('classname')}::{case.get('name')}",
                "outcome": {"failure": "failed"}.get(outcome, outcome),
                "seconds": float(case.get("time", 0)),
                "message": ends.get(outcome, ""),
            }
        )
    return cases


if __name__ == "__main__":
    sys.exit(main())
