"""The journal: whole after every picture, and what a kill leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.journal import LINES, ROWS, Journal


def journal(folder, *, id="here", force=False):
    return Journal(folder, embedding_id=id, dimension=2, force=force)


def note(journal, i):
    journal.add({"name": f"{i}", "embedding_id": "here"}, np.float32([i, -i]))


def held(folder):
    return [json.loads(line)["name"] for line in (folder / LINES).read_text().splitlines()]


def test_it_is_whole_after_every_picture(tmp_path):
    with journal(tmp_path) as open_journal:
        assert np.load(tmp_path / ROWS).shape == (0, 2)
        for i in range(3):
            note(open_journal, i)
            assert np.array_equal(np.load(tmp_path / ROWS), [[k, -k] for k in range(i + 1)])
            assert held(tmp_path) == [str(k) for k in range(i + 1)]


@given(lines_cut=st.integers(0, 120), rows_cut=st.integers(0, 60))
def test_wherever_a_kill_cuts_it_the_next_run_goes_on(tmp_path_factory, lines_cut, rows_cut):
    folder = tmp_path_factory.mktemp("cut")
    with journal(folder) as first:
        for i in range(4):
            note(first, i)
    for name, cut in ((LINES, lines_cut), (ROWS, rows_cut)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: max(0, len(content) - cut)])
    with journal(folder) as second:
        assert second.done == {str(i) for i in range(len(second.done))}
        for i in range(4):
            if str(i) not in second.done:
                note(second, i)
    assert held(folder) == ["0", "1", "2", "3"]
    assert np.array_equal(np.load(folder / ROWS), [[i, -i] for i in range(4)])


def test_results_of_another_embedding_are_not_mixed_in(tmp_path):
    with journal(tmp_path) as first:
        note(first, 1)
    with pytest.raises(InputError, match="holds embeddings here"):
        journal(tmp_path, id="there")
    with journal(tmp_path, id="there", force=True) as anew:
        assert anew.done == set()
    assert np.load(tmp_path / ROWS).shape == (0, 2)


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / LINES).write_text("my notes\n")
    (tmp_path / ROWS).write_bytes(bytes(1000))
    with pytest.raises(InputError, match="is no journal"):
        journal(tmp_path)
    assert (tmp_path / LINES).read_text() == "my notes\n"
