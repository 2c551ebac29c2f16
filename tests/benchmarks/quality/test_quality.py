"""The quality run: one row with every figure, kept rows, and a scene's smallest sufficient area."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.quality import __main__ as quality
from benchmarks.quality import explainers, maskers, scoring
from benchmarks.quality.needed import CELL, needed
from benchmarks.quality.planted import encoders
from benchmarks.quality.scoring import Counts, Subject, score, seconds_per_image
from benchmarks.quality.settings import DECODERS, METHODS, SETTINGS, seeds_of
from runtime.errors import InputError
from train.__main__ import WORTHLESS, config_of, parser
from train.config import EncoderConfig
from train.encoder.zoo import load_encoder

KEYS = {
    "encoder", "method", "objective", "seed", "n_images", "relevance_rank", "rank_corrected",
    "relevance_mass", "mask_inside", "mask_outside", "pointing_game", "roc_auc", "complexity", "sparseness",
    "insertion_auc", "deletion_auc", "cosine_kept", "mask_area", "sensitivity", "mprt_abs_rho",
    "mprt_floor", "seconds_per_image",
}  # fmt: skip


@pytest.fixture
def subject(weights):
    """Four random pictures of 64 pixels, whose region is the upper left quarter."""
    torch.manual_seed(0)
    config = EncoderConfig(encoder="timm/test_resnet", weights=str(weights), image_size=(64, 64))
    regions = np.zeros((4, 64, 64), bool)
    regions[:, :32, :32] = True
    encoder = load_encoder(config)
    return Subject(
        encoder=encoder,
        x=torch.randn(4, 3, 64, 64),
        regions=regions,
        centre=torch.zeros(encoder.record.dimension),
        photographs=torch.randn(2, 3, 64, 64),
    )


def figures(subject, explain, **options):
    counts = Counts(images=4, faithfulness=2, sensitivity=1, draws=2, mprt=3, copies=2)
    settings = {"counts": counts, "is_mask": True, "randomised": [subject.encoder] * 3, "seed": 0, **options}
    return score(subject, explain, **settings)


def test_truth_as_map_has_the_best_figures(subject):
    truth = torch.from_numpy(subject.regions[0]).float()
    row = figures(subject, lambda _, x: truth.expand(len(x), -1, -1))
    assert row["relevance_rank"] == row["relevance_mass"] == row["pointing_game"] == row["roc_auc"] == 1
    assert row["rank_corrected"] == 1
    assert (row["mask_inside"], row["mask_outside"], row["mask_area"]) == (1, 0, 0.25)
    assert row["complexity"] == pytest.approx(np.log(1024))
    assert row["sensitivity"] == 0
    assert row["mprt_abs_rho"] == pytest.approx(1), "a map that ignores the model"
    assert row["mprt_copies"] == 2


def test_without_region_the_other_metrics_are_measured(subject):
    nowhere = replace(subject, regions=np.zeros_like(subject.regions))
    row = figures(nowhere, lambda _, x: torch.rand(len(x), 64, 64))
    assert row["relevance_rank"] is row["relevance_mass"] is row["mask_inside"] is row["region_area"] is None
    assert row["insertion_auc"] is not None
    assert row["complexity"] > 0


def test_what_is_not_run_is_null(subject):
    nothing = Counts(images=4, faithfulness=0, sensitivity=0, draws=0, mprt=0, copies=0)
    row = figures(subject, lambda _, x: torch.rand(len(x), 64, 64), counts=nothing, is_mask=False)
    for key in ("mask_inside", "cosine_kept", "mask_area", "insertion_auc", "sensitivity", "mprt_floor"):
        assert row[key] is None
    assert row["n_images"] == 4
    assert row["relevance_rank"] == pytest.approx(0.25, abs=0.05)


def test_explainers_see_few_images_at_a_time(subject, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 3)
    sizes = []
    figures(subject, lambda _, x: (sizes.append(len(x)), torch.rand(len(x), 64, 64))[1])
    assert max(sizes) == 3


def test_the_needed_area_lies_where_the_embedding_looks():
    """An embedding that is one quarter of the picture, pixel by pixel, in front of nothing."""

    def quarter(x):
        return x[:, :, :16, :16].flatten(1)

    x = torch.zeros(3, 32, 32)
    x[:, :8, :16] = 1  # half of what it sees is bright, and that is all that counts
    left = needed(quarter, x, torch.zeros_like(x), centre=torch.zeros(3 * 256))
    assert not left[16:].any()
    assert not left[:, 16:].any()
    assert 0.5 < left[:8, :16].float().mean() <= 1
    assert left[8:].sum() == 0
    assert left.sum() % CELL**2 == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_options_of_the_command(name):
    options = parser().parse_args(["--encoder", "e", "--data", "d", "--out", "o", *SETTINGS[name]])
    of = {"authors": "unet", **{method: decoder for decoder, method in DECODERS.items()}}
    assert config_of(options).masker == of.get(name, "lateral")


def test_compared_trainings_have_three_seeds():
    assert seeds_of("digits", "authors", (0, 1, 2)) == seeds_of("patch", "nemu", (0, 1, 2)) == (0, 1, 2)
    assert seeds_of("digits", "ranking", (0, 1, 2)) == seeds_of("digits", "relax", (0, 1, 2)) == (0,)
    assert {"digits", "patch", "red", "selfsup"} <= METHODS.keys()


def test_timing_counts_one_and_all():
    calls = []
    figures = seconds_per_image(lambda x: (calls.append(len(x)), x[:, 0])[1], torch.zeros(3, 1), slow=False)
    assert set(calls) == {1, 3}
    assert figures["batch"] == 3
    slow = seconds_per_image(lambda x: x, torch.zeros(3, 1), slow=True)
    assert slow["seconds_per_image_batched"] is None


def test_run_writes_every_key_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(explainers, "TRAIN_SCENES", 40)
    few = {"steps": 2, "train_scenes": 40, "test_scenes": 4, "evidence_scenes": 3}
    encoders.train_encoder("digits", tmp_path / "encoders", **few)
    command = [
        *("quality", "--encoders", "digits", "--methods", "nemu", "lafam", "--quick", "--steps", "2"),
        *("--kinds", "standard", "--seeds", "0", "--work", str(tmp_path), "--json", str(tmp_path / "q.json")),
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert quality.main() == 0
    first = json.loads((tmp_path / "q.json").read_text())
    assert [row["method"] for row in first["rows"]] == ["nemu", "lafam"]
    for row in first["rows"]:
        assert row.keys() >= KEYS
    masker, lafam = first["rows"]
    assert masker["objective"] == "sparse"
    assert masker["train_seconds"] > 0
    assert 0 < masker["mask_area"] <= 1  # of two steps of training
    assert lafam["objective"] is lafam["cosine_kept"] is None
    facts = first["encoders"]["digits"]
    assert facts["truth"] == ["red", "blue"]
    assert 0 <= facts["needed_area"] <= 1
    assert first["settings"]["nemu"] == []

    monkeypatch.setattr(quality, "score", lambda *_, **__: pytest.fail("scored again"))
    assert quality.main() == 0
    again = json.loads((tmp_path / "q.json").read_text())
    timed = {"seconds_per_image", "seconds_per_image_batched"}
    for a, b in zip(first["rows"], again["rows"], strict=True):
        assert {k: v for k, v in a.items() if k not in timed} == {
            k: v for k, v in b.items() if k not in timed
        }


def test_unknown_method_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["quality", "--methods", "gradcam", "--json", str(tmp_path / "q.json")])
    with pytest.raises(SystemExit):
        quality.main()
    assert "no method gradcam" in capsys.readouterr().err


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
