"""A run's summary: read back by whoever has the masker, and only if it is that run's."""

from __future__ import annotations

import json
import shutil

import lightning
import pytest
import timm
import torch

import runtime
from runtime.errors import InputError, SchemaError
from train.checkpoint import MaskerFile
from train.run_folder import CONFIG, MASKER, SUMMARY, read_summary, run_of


@pytest.fixture
def run(masker, tmp_path):
    """A copy of the run's folder, without its checkpoints."""
    for name in (MASKER, CONFIG, SUMMARY):
        shutil.copy(masker.parent / name, tmp_path / name)
    return tmp_path


def test_the_masker_knows_its_run(run):
    record = run_of(MaskerFile.open(run / MASKER))
    assert record == read_summary(run)
    assert (record.steps, record.images, record.skipped, record.processes) == (4, 12, 0, 1)
    assert record.versions == {
        "nemu": runtime.__version__,
        **{m.__name__: m.__version__ for m in (torch, timm, lightning)},
    }


def test_a_masker_alone_knows_none(run):
    (run / SUMMARY).unlink()
    assert run_of(MaskerFile.open(run / MASKER)) is None


def test_a_summary_without_versions_is_read(run):
    fields = json.loads((run / SUMMARY).read_text())
    del fields["versions"]
    (run / SUMMARY).write_text(json.dumps(fields))
    assert run_of(MaskerFile.open(run / MASKER)).versions == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 4}', b"\xff\xfe"])
def test_an_unreadable_summary_is_an_error(run, text):
    (run / SUMMARY).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SchemaError, match=SUMMARY) as caught:
        run_of(MaskerFile.open(run / MASKER))
    assert "nemu train" in caught.value.expected


def test_a_masker_beside_another_runs_files_is_refused(run):
    fields = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps({**fields, "seed": 7}))
    with pytest.raises(InputError, match="has other settings"):
        run_of(MaskerFile.open(run / MASKER))
    (run / CONFIG).unlink()
    with pytest.raises(InputError, match="is missing"):
        run_of(MaskerFile.open(run / MASKER))
