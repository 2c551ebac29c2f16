"""Every `python -m …` command on a page names a module that runs and options that it has.

Blocks of commands on the pages for people are run as they are by tests/runtime/test_pages.py.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(
    r"python -m ((?:benchmarks|train|export|runtime|demo)[\w.]*)((?:(?: +|\n--)[^\s`#|()]+)*)"
)


def commands() -> list[tuple[str, str, str]]:
    """Page, module and arguments of every command."""
    return sorted(
        {
            (page.name, found[1].rstrip("."), " ".join(found[2].split()))
            for page in PAGES
            for found in COMMAND.finditer(page.read_text())
        }
    )


def sources(module: str) -> str:
    """Text of the folder of the module that `python -m` runs."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"no module {module}"
    path = Path(spec.origin or "")
    assert path.name != "__init__.py" or path.with_name("__main__.py").exists(), f"{module} does not run"
    return "".join(file.read_text() for file in path.parent.rglob("*.py"))


def test_pages_name_commands():
    assert len(commands()) > 30


@pytest.mark.parametrize(("page", "module", "arguments"), commands())
def test_command_and_its_options_exist(page: str, module: str, arguments: str):
    text = sources(module)
    for option in set(re.findall(r"(?<!\S)--[a-z][a-z-]+", arguments)):
        assert {f'"{option}"', f'"--{option[5:]}"'} & set(re.findall(r'"--[a-z-]+"', text)), option
