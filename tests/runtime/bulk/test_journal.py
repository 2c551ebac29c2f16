"""The journal: complete after every image, and after a kill."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bulk.journal import LINES, ROWS, Journal
from runtime.errors import InputError
from tests.runtime.run import lines


def journal(folder, *, id="here", force=False):
    return closing(Journal(folder, embedding_id=id, dimension=2, force=force))


def note(journal, i):
    journal.add({"name": f"{i}", "embedding_id": "here"}, np.float32([i, -i]))


def held(folder):
    return [line["name"] for line in lines(folder)]


def test_journal_is_complete_after_every_image(tmp_path):
    with journal(tmp_path) as open_journal:
        assert np.load(tmp_path / ROWS).shape == (0, 2)
        for i in range(3):
            note(open_journal, i)
            assert np.array_equal(np.load(tmp_path / ROWS), [[k, -k] for k in range(i + 1)])
            assert held(tmp_path) == [str(k) for k in range(i + 1)]


@given(lines_cut=st.integers(0, 120), rows_cut=st.integers(0, 60))
def test_journal_recovers_from_any_cut(tmp_path_factory, lines_cut, rows_cut):
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


def test_foreign_ids_and_files_are_refused(tmp_path):
    with journal(tmp_path) as first:
        note(first, 1)
    with pytest.raises(InputError, match="holds embeddings here"):
        journal(tmp_path, id="there")
    with journal(tmp_path, id="there", force=True) as anew:
        assert anew.done == set()
    assert np.load(tmp_path / ROWS).shape == (0, 2)
    (tmp_path / LINES).write_text("my notes\n")
    (tmp_path / ROWS).write_bytes(bytes(1000))
    with pytest.raises(InputError, match="is no journal"):
        journal(tmp_path)
    assert (tmp_path / LINES).read_text() == "my notes\n"
