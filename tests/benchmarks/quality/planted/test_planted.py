"""Planted encoders can be loaded and measured; scenes are deterministic, split, open to intervention."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.quality.planted import world
from benchmarks.quality.planted.encoders import ENCODERS, QUICK, dependence, embed, load, train_encoder
from benchmarks.quality.planted.patterns import SHAPES, TEXTURES, shape, texture
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


CASES = [("train", "standard"), ("train", "small"), *(("test", kind) for kind in KINDS)]


@pytest.mark.parametrize(("split", "kind"), CASES)
def test_a_scene_is_a_function_of_its_arguments(split, kind):
    one, again = (scene(5, split=split, kind=kind, changed=("red",)) for _ in "ab")
    assert one.image.shape == (SIZE, SIZE, 3)
    assert one.image.dtype == np.uint8
    assert np.array_equal(one.image, again.image)
    assert one.labels == again.labels
    assert all(np.array_equal(one.regions[name], again.regions[name]) for name in one.regions)
    assert not np.array_equal(scene(6, split=split, kind=kind).image, one.image)


@pytest.mark.parametrize(("split", "kind"), CASES)
@pytest.mark.parametrize("factor", FACTORS)
def test_change_moves_only_the_pixels_of_its_factor(split, kind, factor):
    for i in range(10):
        before = scene(i, split=split, kind=kind)
        after = scene(i, split=split, kind=kind, changed=(factor,))
        moved = (before.image != after.image).any(axis=2)
        assert moved.any()
        for name in set(before.regions) - {factor}:
            both = before.regions[name] & after.regions[name]
            assert not (moved & both).any(), f"{factor} moved {name}"
            assert before.labels[name] == after.labels[name]
        if factor in before.regions:
            assert before.labels[factor] != after.labels[factor]
            assert not (moved & ~(before.regions[factor] | after.regions[factor])).any()


@pytest.mark.parametrize("factor", ["red", "blue"])
def test_the_boxes_stay_where_they_are(factor):
    """A changed digit covers part of what it covered, and the other digit's mask is the same."""
    before, after = scene(3, split="test"), scene(3, split="test", changed=(factor,))
    other = {"red": "blue", "blue": "red"}[factor]
    assert np.array_equal(before.regions[other], after.regions[other])
    assert (before.regions[factor] & after.regions[factor]).any()


def test_all_factors_can_be_changed_together():
    before, after = scene(0, split="test"), scene(0, split="test", changed=FACTORS)
    assert all(before.labels[name] != after.labels[name] for name in before.labels)
    assert (before.image != after.image).any(axis=2).mean() > 0.8


@pytest.mark.parametrize(("split", "kind"), CASES)
def test_regions_are_disjoint_and_of_fixed_sizes(split, kind):
    patches, digits = [], []
    for i in range(100):
        regions = scene(i, split=split, kind=kind).regions
        assert sum(r.astype(int) for r in regions.values()).max() == 1
        patches.append(regions["patch"].mean())
        digits += [regions["red"].mean(), regions["blue"].mean()]
    assert 0.2 < np.median(patches) < 0.3
    assert max(patches) <= 0.33
    assert min(digits) > 0.005
    if kind == "small":
        assert max(digits) <= 0.02
    elif split == "test":
        assert np.median(digits) > 0.04


def test_quarter_of_training_scenes_has_small_digits():
    small = [
        max(scene(i, split="train").regions[n].mean() for n in ("red", "blue")) <= 0.02 for i in range(80)
    ]
    assert all(small[3::4])
    assert sum(small) < 30


def test_only_digits_are_red_and_blue():
    for i in range(50):
        one = scene(i, split="test")
        red, green, blue = one.image.astype(int).transpose(2, 0, 1)
        for name, excess in (("red", red - np.maximum(green, blue)), ("blue", blue - np.maximum(red, green))):
            assert excess[one.regions[name]].min() > 100
            assert excess[~one.regions[name]].max() < 90


def test_every_label_occurs():
    labels = [scene(i, split="test").labels for i in range(200)]
    assert {one["red"] for one in labels} == {one["blue"] for one in labels} == set(range(10))
    assert {one["patch"] for one in labels} == set(range(len(TEXTURES)))


def test_the_splits_share_no_material():
    for low, high in world.PERIODS["train"]:
        assert all(high < a or b < low for a, b in world.PERIODS["test"])
    assert world.HUES["train"][1] < world.HUES["test"][0]
    shown = {split: {p.tobytes() for p in world._photographs(split)} for split in ("train", "test")}
    assert not shown["train"] & shown["test"]


@pytest.mark.parametrize(
    ("split", "kind", "shown"), [("test", "unseen", "unseen"), ("train", "standard", "seen")]
)
def test_unseen_shapes_are_other_shapes(monkeypatch, split, kind, shown):
    assert not set(SHAPES["seen"]) & set(SHAPES["unseen"])
    drawn = []
    monkeypatch.setattr(world, "shape", lambda name, side: drawn.append(name) or shape(name, side))
    for i in range(20):
        scene(i, split=split, kind=kind)
    assert set(drawn) == set(SHAPES[shown])


@pytest.mark.parametrize("family", range(len(TEXTURES)))
def test_a_texture_has_two_colours_in_fair_shares(family):
    field = texture(family, 50, 54, period=11, rng=np.random.default_rng(0))
    assert field.shape == (50, 54)
    assert 0 <= field.min() < 0.1
    assert 0.9 < field.max() <= 1
    assert 0.2 < field.mean() < 0.8


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "validation"},
        {"split": "test", "kind": "tiny"},
        {"split": "train", "kind": "unseen"},
        {"split": "test", "changed": ("green",)},
    ],
)
def test_unknown_arguments_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        scene(0, **wrong)
