"""A benchmark's training: worthless masks are a result, a failure is none."""

import pytest

from benchmarks.quality import maskers
from runtime.errors import InputError
from train.__main__ import WORTHLESS


@pytest.mark.parametrize("code", [0, WORTHLESS])
def test_a_masker_that_is_there_is_a_result(monkeypatch, code):
    given = []
    monkeypatch.setattr(maskers, "train", lambda arguments: given.append(arguments) or code)
    maskers.train_masker(("--seed", "1"))
    assert given == [["--seed", "1"]]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_failure_names_the_command_and_its_end(monkeypatch, code):
    monkeypatch.setattr(maskers, "train", lambda _: code)
    with pytest.raises(InputError, match=rf"python -m train --data 'my photos' ended with {code}"):
        maskers.train_masker(["--data", "my photos"])
