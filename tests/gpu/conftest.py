"""Outcomes of the tests on a GPU as lines of JSON, for benchmarks/gpu_check.sh."""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append the outcome and the recorded properties of a test to the file NEMU_GPU_REPORT."""
    path = os.environ.get("NEMU_GPU_REPORT")
    if path and (report.when == "call" or not report.passed):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        row |= {"message": why[-8000:], **dict(report.user_properties)}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
