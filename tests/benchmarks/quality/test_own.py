"""Maskers and baselines on a user's own images: what is paired with what, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.quality import own
from runtime.errors import InputError
from train.checkpoint import load_nem, read_config, save_masker
from train.nem import NEM
from train.run_folder import MASKER


@pytest.fixture
def again(masker, tmp_path):
    """A run of the same encoder with other settings, untrained: `again(name, seed=1)` → its folder."""

    def make(name: str, **changes) -> Path:
        config = dataclasses.replace(read_config(masker), **changes)
        encoder = load_nem(masker).encoder
        torch.manual_seed(config.seed)
        (tmp_path / name).mkdir()
        save_masker(tmp_path / name / MASKER, NEM.untrained(encoder, masker=config.masker), config)
        return tmp_path / name

    return make


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["own.py", *map(str, arguments)])
    return own.main()


def test_seeds_of_one_name_share_a_line(masker, again, photographs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "own.json"
    runs = [f"ours={masker.parent}", f"ours={again('second', seed=1)}"]
    order = f"order={again('order', objective='ranking', area_weight=None)}"
    chosen = ["--images", photographs, "--json", out, "--quick", "--baselines", "centre", "random"]
    assert run(monkeypatch, *runs, order, *chosen) == 0
    result = json.loads(out.read_text())
    rows = {(row["method"], row["seed"]): row for row in result["rows"]}
    assert list(rows) == [("ours", 0), ("ours", 1), ("order", 0), ("centre", 0), ("random", 0)]
    for row in rows.values():
        assert row["relevance_rank"] is row["mask_inside"] is None, "nobody knows the region"
        assert row["insertion_minus_deletion"] is not None
        assert row["seconds_per_image"] > 0
    assert rows["ours", 0]["insertion_auc"] != rows["ours", 1]["insertion_auc"]
    assert rows["centre", 0]["sensitivity"] == 0
    assert rows["centre", 0]["mprt_abs_rho"] == pytest.approx(1), "it never looks at the encoder"
    assert rows["order", 0]["complexity"] is rows["order", 0]["cosine_kept"] is None
    assert result["encoder"]["id"] == "timm/test_resnet"

    methods, levels = capsys.readouterr().out.strip().split("\n\n")
    lines = [line.split(" | ")[0].strip("| ") for line in methods.splitlines()[2:]]
    assert lines == ["ours", "order", "centre (control)", "random (control)"]
    assert [line.split(" | ")[0] for line in levels.splitlines()[2:]] == ["| ours"]


def test_filling_images_are_not_explained(masker, photographs):
    seen = own.subject_of(load_nem(masker).encoder, photographs, most=200)
    assert len(seen.x) == len(seen.photographs) == 6
    assert all((x - other).abs().max() > 0.1 for x in seen.x for other in seen.photographs)
    assert not seen.regions.any()
    few = own.subject_of(seen.encoder, photographs, most=4)
    assert torch.equal(few.x, seen.x[:4])


@pytest.mark.parametrize("text", ["runs/mine", "=runs/mine", "ours=", "relax=runs/mine"])
def test_name_of_a_baseline_is_refused(text):
    with pytest.raises(InputError, match="NAME=FOLDER"):
        own.runs_of([text])


def test_runs_of_one_name_differ_only_in_seed(masker, again):
    with pytest.raises(InputError, match="more than their seed"):
        own.runs_of([f"ours={masker.parent}", f"ours={again('other', masker='lateral-early')}"])


def test_too_few_images_are_refused(masker, photographs, tmp_path, monkeypatch, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(own.FEWEST - 1):
        shutil.copy(photographs / "00.png", few / f"{i}.png")
    arguments = [f"ours={masker.parent}", "--images", few, "--json", tmp_path / "own.json"]
    assert run(monkeypatch, *arguments) == 1
    assert "holds 7 images" in capsys.readouterr().err
    assert not (tmp_path / "own.json").exists()
