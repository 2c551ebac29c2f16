"""A tool that a test installs."""

from __future__ import annotations

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a tool the only one in the path: `install(name, said, option)`; with the option it says that."""

    def make(name: str, said: str, option: str) -> None:
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n[ \"$1\" = '{option}' ] && printf '{said}\\n'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tool.parent))

    return make
