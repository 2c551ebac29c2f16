"""Fixtures for the tests of what builds packages and engines."""

from __future__ import annotations

import shutil

import pytest

from runtime.package.folder import Package


@pytest.fixture
def copy(package, tmp_path) -> Package:
    """A copy of the package that a test may change or add engines to."""
    return Package.open(shutil.copytree(package, tmp_path / "tiny.nemu"))
