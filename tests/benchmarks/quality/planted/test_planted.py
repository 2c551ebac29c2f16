"""The planted encoders: what is written can be loaded, and what it depends on can be measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.quality.planted.encoders import ENCODERS, QUICK, dependence, embed, load, train_encoder
from benchmarks.quality.planted.planting import jitter, view
from benchmarks.quality.planted.world import FACTORS, KINDS, SIZE, scene
from runtime.errors import InputError


@pytest.mark.parametrize(("name", "outputs"), [("digits", 20), ("selfsup", 0)])
def test_two_steps_write_an_encoder_that_loads(tmp_path, name, outputs):
    weights = train_encoder(name, tmp_path, **QUICK)
    encoder = load(name, tmp_path)
    assert weights == tmp_path / f"{name}.safetensors"
    assert encoder.record.dimension == 512
    assert encoder.model.model.num_classes == outputs

    record = json.loads(weights.with_suffix(".json").read_text())
    truth = list(ENCODERS[name].truth)
    assert record["truth"] == truth
    assert record["steps"] == 2
    assert record["test_accuracy"].keys() == record["evidence"].keys() == set(KINDS)
    assert list(record["test_accuracy"]["small"]) == truth
    wanted = {*FACTORS, "truth_changed", "rest_changed"} if truth else set(FACTORS)
    assert set(record["evidence"]["standard"]) == wanted
    again = dependence(encoder, truth=truth, scenes=4)
    assert again == pytest.approx(record["evidence"]["standard"], rel=1e-3)


def test_untrained_encoder_error_names_the_command(tmp_path):
    with pytest.raises(InputError, match="python -m benchmarks.encoders red"):
        load("red", tmp_path)
    with pytest.raises(InputError, match="digits, red"):
        train_encoder("green", tmp_path)


class Pixels(torch.nn.Module):
    """An "encoder" that embeds a picture as the amount of red and of blue it has."""

    def normalize(self, images):
        return images.float()

    def forward(self, x):
        r, g, b = x.unbind(-1)
        excess = [(r - torch.maximum(g, b) > 95), (b - torch.maximum(r, g) > 95)]
        return torch.stack([e.flatten(1).float().mean(1) for e in excess], 1), []


def test_dependence_finds_what_an_encoder_looks_at():
    found = dependence(Pixels(), truth=("red", "blue"), scenes=20)
    assert found["photograph"] == found["patch"] == found["shapes"] == found["rest_changed"] == 0
    assert found["truth_changed"] > max(found["red"], found["blue"]) > 0
    images = np.stack([scene(i, split="test").image for i in range(130)])
    assert torch.equal(embed(Pixels(), images)[128:], embed(Pixels(), images[128:])), "batches keep the order"


@pytest.mark.parametrize("change", [jitter, view])
def test_training_pictures_keep_their_shape(change):
    images = torch.randint(256, (4, SIZE, SIZE, 3), dtype=torch.uint8)
    pixels = change(images)
    assert pixels.shape == (4, 3, SIZE, SIZE)
    assert pixels.isfinite().all()
