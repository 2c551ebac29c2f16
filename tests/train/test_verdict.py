"""A run judges its own masks."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from train.__main__ import main
from train.checkpoint import load_nem
from train.verdict import GREY, Verdict

HALF = torch.cat([torch.ones(2, 4, 4), torch.zeros(2, 4, 4)], dim=2)


def fault(masks, *, loss=0.5):
    return verdict(masks, loss=loss).fault()


def verdict(masks, *, loss=0.5, empty=1.0, full=1.25, measured=None):
    return Verdict.of(
        masks, loss=loss, empty_cost=empty, full_cost=full, area_weight=2.0, measured_weight=measured
    )


@pytest.mark.parametrize(
    ("masks", "word", "number"),
    [
        (torch.full((2, 4, 4), 0.01), "empty", "0.010"),
        (torch.full((2, 4, 4), 0.95), "full", "0.950"),
        (torch.full((2, 4, 4), 0.5), "grey", "100%"),
    ],
)
def test_unusable_masks_are_named_with_number_and_cure(masks, word, number):
    said = fault(masks)
    assert word in said
    assert number in said
    assert "cure" in said


def test_a_mask_of_one_half_is_fine():
    assert fault(HALF) is None


def test_at_most_half_of_the_pixels_are_grey():
    grey = HALF.clone()
    grey[:, :, :4] = 0.5
    assert fault(grey) is None
    grey[0, 0, 4] = 0.5
    assert "grey" in fault(grey)


@pytest.mark.parametrize(("empty", "full", "word"), [(0.4, 1.0, "an empty"), (1.0, 0.4, "a full")])
def test_mask_costlier_than_a_trivial_one_is_worthless(empty, full, word):
    said = verdict(HALF, empty=empty, full=full).fault()
    assert word in said
    assert "0.500" in said
    assert "0.400" in said


def test_the_cure_names_the_weight_that_was_measured():
    assert "--area-weight below 2, which was measured" in verdict(torch.zeros(2, 4, 4)).fault()
    assert "--area-weight above 2, which was measured" in verdict(torch.ones(2, 4, 4)).fault()
    by_hand = "leave out --area-weight: measured on this encoder it is 1.25"
    for masks, loss in ((torch.zeros(2, 4, 4), 0.5), (torch.ones(2, 4, 4), 0.5), (HALF, 3.0)):
        assert by_hand in verdict(masks, loss=loss, measured=1.25).fault()


def test_a_nan_loss_is_worthless():
    assert "worth nothing" in fault(HALF, loss=float("nan"))


class Red(nn.Module):
    """Its embedding is where there is red, and nothing else."""

    def forward(self, x):
        red = (x[:, :1] - x[:, 1:].amax(1, keepdim=True) - 1).relu()
        maps = [nn.functional.avg_pool2d(red, side) for side in (2, 4, 8)]
        return maps[-1].flatten(1), maps


def test_a_default_run_finds_what_the_encoder_sees(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "red", SimpleNamespace(load=Red))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 32, 32, 1), np.uint8).repeat(3, axis=3)
    red = np.zeros((64, 32, 32), bool)
    (tmp_path / "data").mkdir()
    for i, (y, x) in enumerate(rng.integers(0, 22, (64, 2))):
        red[i, y : y + 10, x : x + 10] = True
        images[i][red[i]] = (255, 0, 0)
        Image.fromarray(images[i]).save(tmp_path / f"data/{i}.png")
    encoder = ["--encoder", "red:load", "--image-size", "32", "--resize", "squash"]
    encoder += ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    short = ["--steps", "600", "--batch-size", "16", "--workers", "0", "--quiet"]
    out = tmp_path / "run"
    assert main([*encoder, *short, "--data", str(tmp_path / "data"), "--out", str(out)]) == 0
    assert "warning" not in capsys.readouterr().err

    nem = load_nem(out / "masker.safetensors")
    with torch.inference_mode():
        masks = nem(nem.encoder.normalize(torch.from_numpy(images)))[1].numpy()
    hidden, shown = GREY
    assert masks[red].mean() > shown
    assert masks[~red].mean() < hidden
