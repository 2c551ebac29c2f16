"""Tables of records, and the pages that hold them."""

from __future__ import annotations

import json

import pytest

from benchmarks.common import markdown
from benchmarks.common.markdown import cell, command_of, fill, load, made, records
from benchmarks.pages import report, tables
from benchmarks.pages.tables import interval
from benchmarks.quality.natural import natural_tables
from benchmarks.quality.toward import toward_tables


@pytest.mark.parametrize(
    ("page", "write"),
    [
        (tables.PAGE, tables.main),
        (natural_tables.PAGE, natural_tables.main),
        (toward_tables.PAGE, toward_tables.main),
    ],
)
def test_command_writes_the_page_as_it_is(page, write, tmp_path, monkeypatch):
    before = (markdown.DOCS / page).read_text()
    monkeypatch.setattr(markdown.write_page, "__defaults__", (tmp_path,))
    assert write() == tmp_path / page
    assert (tmp_path / page).read_text() == before


def test_report_pages_hold_the_recorded_results():
    pages = {
        "quality.md": report.quality_parts(load("quality"), picture=True),
        "ablation.md": report.ablation_parts(load("ablation"), load("quality_weight")),
    }
    for page, parts in pages.items():
        text = (markdown.DOCS / page).read_text()
        assert fill(text, parts) == text


@pytest.mark.parametrize(
    "columns",
    [{"A": "a", "B": lambda r: f"{r['b']:.2f}"}, {"A": "{a}", "B": "{b:.2f}"}, "A: {a} |\nB: {b:.2f}"],
    ids=["keys and functions", "templates", "text"],
)
def test_records_take_every_kind_of_column(columns):
    assert records([{"a": 1, "b": 2.5}], columns) == "| A | B |\n| --- | --- |\n| 1 | 2.50 |\n"


def test_unknown_figures_are_a_dash():
    assert cell({"a": 1.0, "ci": None}, "{a:.2f} ({ci[0]:.2f} to {ci[1]:.2f})") == "–"
    assert cell({}, "{a:.2f}") == "–"


def test_interval_without_ends():
    assert interval(1.0, (0.5, 2.0), ".1f") == "1.0 (0.5 to 2.0)"
    assert interval(1.0, None, ".3f") == "1.000"


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        ("zoo.py --out zoo", "python -m benchmarks.zoo --out zoo"),
        ("benchmarks.frontier --steps 2", "python -m benchmarks.frontier --steps 2"),
        ("python -m train --data x", "python -m train --data x"),
        ("benchmarks/gpu_check.sh OUTDIR", "benchmarks/gpu_check.sh OUTDIR"),
    ],
)
def test_recorded_command_is_shown_as_typed(recorded, typed):
    assert command_of({"command": recorded}) == typed


def test_commit_that_was_not_kept_is_said():
    meta = {"command": "zoo.py", "device": "a CPU; no GPU: no driver", "commit": "0123456789abcdef+changes"}
    assert made(meta) == "Made by `python -m benchmarks.zoo` on a CPU; commit: 0123456789ab with changes.\n"
    del meta["commit"]
    assert made(meta).endswith("; commit: not kept.\n")


def test_recorded_commands_name_no_temporary_folder():
    for path in markdown.RESULTS.rglob("*.json"):
        meta = json.loads(path.read_text()).get("meta", {})
        assert "/tmp/" not in meta.get("command", ""), path


def test_fill_replaces_only_what_is_between_markers():
    empty = "<!-- b: written by x -->\n<!-- end of b -->\n"
    page = f"text\n<!-- a: written by x -->\nold\n<!-- end of a -->\nmore\n{empty}"
    filled = fill(page, {"a": "new\n"})
    assert filled.startswith("text\n<!-- a: written by x -->\n\nnew\n\n<!-- end of a -->\nmore\n")
    assert fill(filled, {}) == page.replace("old\n", "")
