"""Pairs: every measure on an answer that is known, every method on an encoder that sees one colour."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.quality.natural.subject import Source
from benchmarks.quality.toward import __main__ as toward
from benchmarks.quality.toward import jobs as toward_jobs
from benchmarks.quality.toward.jobs import PLAIN, TARGET
from benchmarks.quality.toward.methods import METHODS, similarity
from benchmarks.quality.toward.planted import digit_share, mass, pairs
from benchmarks.quality.toward.subject import (
    NULL,
    composites,
    levels,
    localised,
    logits,
    mixtures,
    shares,
    unrelated,
)
from benchmarks.quality.toward.toward_tables import parts as tables_of
from runtime.errors import InputError
from runtime.package.records import InputRecord
from tests.benchmarks.quality.natural.test_natural import SIZE, write_composites
from train.__main__ import main as train
from train.checkpoint import load_nem
from train.encoder.frozen import FrozenEncoder

IMAGES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    names = [f"{i:04d}_thing{i}_place{i}" for i in range(IMAGES)]
    return write_composites(tmp_path_factory.mktemp("toward"), names, training=12)


@pytest.fixture(scope="module")
def runs(data, weights, tmp_path_factory) -> dict[str, Path]:
    """A masker with targets and one without, of two steps."""
    out = tmp_path_factory.mktemp("runs")
    for name, option in ((TARGET, "--toward"), (PLAIN, "--no-toward")):
        arguments = [
            *("--encoder", "timm/test_resnet", "--weights", weights, "--image-size", SIZE),
            *("--resize", "squash", "--data", data / "train", "--batch-size", 4, "--steps", 2, "--quiet"),
            *("--workers", 0, "--area-weight", 1, "--out", out / name, option),
        ]
        assert train(list(map(str, arguments))) in (0, 3)
    return {name: out / name for name in (TARGET, PLAIN)}


@pytest.fixture
def run(data, weights, runs, tmp_path, monkeypatch):
    """`run("targets")` → what was written."""

    def call(*parts: str, methods: tuple[str, ...] = ("gradient", "occlusion")) -> dict:
        out = tmp_path / "toward.json"
        command = [
            *("toward", "--data", data, "--work", tmp_path / "work", "--json", out, "--size", SIZE),
            *("--encoder-weights", f"test_resnet={weights}", "--masker", f"test_resnet:0={runs[TARGET]}"),
            *("--plain", f"test_resnet:1={runs[PLAIN]}", "--images", IMAGES, "--dear-images", 2),
            *("--optimum-images", 2, "--optimum-steps", 2, "--methods", *methods, "--parts", *parts),
        ]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        assert toward.main() == 0
        return json.loads(out.read_text())

    return call


def test_every_part_is_merged_and_reused(run, monkeypatch):
    parts = ("targets", "mixtures", "self", "optimum", "baselines")
    found = run(*parts)
    asked = [row["asked"] for row in found["targets"]]
    assert asked[:3] == [NULL, "itself", "same object"]
    assert len(asked) == 7
    assert [(r["method"], r["asked"]) for r in found["mixtures"]] == [
        ("nemu", of) for of in (NULL, "u", "v", "neither")
    ]
    assert [r["n"] for r in found["optimum"]] == [2, 2]
    assert {(r["method"], r["n"]) for r in found["baselines"]} == {
        ("nemu", 4), ("nemu, ignoring the target", 4), ("gradient", 4), ("occlusion", 2),
    }  # fmt: skip
    assert {r["images"] for r in found["paired"] if r["against"] == "occlusion"} == {2}
    assert [r["masker"] for r in found["self"]] == [TARGET, PLAIN]
    assert [r["metric"] for r in found["self_paired"]] == list(toward_jobs.SELF)
    for name in parts:
        monkeypatch.setitem(toward_jobs.COMPUTE, name, lambda *_: pytest.fail("computed again"))
    again = run(*parts)
    assert {k: v for k, v in again.items() if k != "meta"} == {k: v for k, v in found.items() if k != "meta"}
    text = "\n".join(tables_of(again).values())
    assert "same object" in text
    assert "test_resnet" in text
    assert str(Path.home()) not in text


def test_costs_and_seconds_have_their_ratios(run, monkeypatch):
    monkeypatch.setattr(toward_jobs, "RANDOM_WEIGHTS", "test_resnet2")
    monkeypatch.setattr(toward_jobs, "random_encoder", lambda name, size: None)
    monkeypatch.setattr(toward_jobs, "cost", lambda encoder, model, **_: [{"model": model}])
    found = run("timing", "cost", methods=("second order",))
    assert [row["model"] for row in found["cost"]] == ["test_resnet", "test_resnet2"]
    first, second, third = found["timing"]
    assert first["ratio_onnxruntime"] == second["ratio_torch"] == 1
    ratio = third["seconds_per_image"] / first["seconds_per_image"]
    assert third["ratio_onnxruntime"] == pytest.approx(ratio)


def test_a_run_that_is_not_there_is_refused(tmp_path):
    for text in ("name", "name:0", f"name:x={tmp_path}", f"name:0={tmp_path}"):
        with pytest.raises(InputError, match="--masker"):
            toward.runs_of([text], "--masker")


def test_zero_target_gives_the_plain_mask(data, weights, runs):
    source = Source(data=data, weights=(("test_resnet", weights),), device="cpu", size=SIZE)
    nem = load_nem(runs[TARGET] / "masker.safetensors")
    asked = composites(source, "test_resnet", IMAGES)
    with torch.inference_mode():
        plain = nem(asked.x)[1]
    torch.testing.assert_close(logits(nem, asked)[NULL].sigmoid(), plain)
    assert not torch.equal(asked.targets["itself"], asked.targets["same object"])
    mixed = mixtures(source, "test_resnet", IMAGES)
    for i, region in enumerate(torch.from_numpy(mixed.regions)):
        torch.testing.assert_close(mixed.x[i][:, region], asked.x[i][:, region])
        torch.testing.assert_close(mixed.x[i][:, ~region], asked.x[(i + 1) % IMAGES][:, ~region])
    torch.testing.assert_close(mixed.targets["v"], asked.targets["itself"].roll(-1, 0))


def test_unrelated_has_another_object_and_photograph():
    names = ["0000_cat_by_the_sea", "0001_cat_wood", "0002_dog_sea", "0003_dog_wood"]
    assert unrelated(names) == [3, 2, 1, 0]
    with pytest.raises(InputError, match="--images"):
        unrelated(names[:2])


def test_levels_and_shares_of_masks_that_are_known():
    regions = np.zeros((2, 4, 4), bool)
    regions[:, :2] = True
    full, none = torch.from_numpy(regions).float(), torch.zeros(2, 4, 4)
    half = torch.full((2, 4, 4), 0.5)
    null, pair = levels({NULL: half, "pair": full}, regions)
    assert (pair["inside"], pair["outside"], pair["difference"]) == (1, 0, 1)
    assert (pair["control_inside"], pair["control_outside"], null["difference"]) == (0.5, 0.5, 0)
    faint = 0.01 * (1 - full)
    mixed = torch.stack([full[0], faint[1]])
    masks = {NULL: half, "u": full, "v": 1 - full, "one of two faint": mixed, "empty": none}
    _, u, v, mixed, empty = shares(masks, regions)
    assert (u["share"], v["share"], u["control_share"], u["area"]) == (1, 0, 0.5, 0.5)
    assert mixed["share"] == 0.5
    assert mixed["pooled"] == pytest.approx(1 / 1.01)
    assert empty["share"] == empty["pooled"] == 0.5, "an empty mask is nowhere"


def test_localisation_of_signed_and_saturated_maps():
    region = np.zeros((1, 4, 4), bool)
    region[0, 0] = True
    signed = torch.where(torch.from_numpy(region), 1.0, -1.0)
    found = localised(signed, region)
    assert [found[k] for k in ("relevance_mass", "relevance_rank", "pointing_game", "roc_auc")] == [1] * 4
    saturated, order = torch.ones(1, 4, 4), signed
    assert localised(saturated, region)["roc_auc"] == 0.5
    assert localised(saturated, region, order)["roc_auc"] == 1


class _Colours(nn.Module):
    """Embeds an image as the mean of each channel above zero, of cells of 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.global_pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        cells = nn.functional.avg_pool2d(x, 8).relu()
        return self.model.global_pool(cells).flatten(1), [cells]


@pytest.mark.parametrize("name", METHODS)
def test_methods_find_the_colour_of_the_target(name):
    size = InputRecord(
        name="image", height=48, width=48, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", crop_pct=1.0,
        interpolation="bilinear",
    )  # fmt: skip
    encoder = FrozenEncoder(_Colours(), id="colours", embedding="own", input=size)
    x = torch.full((3, 48, 48), 0.1)
    x[0, 8:24, 8:24] = 1.0
    x[2, 24:40, 24:40] = 1.0
    red, blue = (torch.zeros(48, 48, dtype=torch.bool) for _ in range(2))
    red[8:24, 8:24], blue[24:40, 24:40] = True, True
    maps = METHODS[name].explain(encoder, x, torch.eye(3)[[0, 2]], centre=torch.full((3,), 0.01), seed=0)
    assert maps.shape == (2, 48, 48)
    on_red, on_blue = (localised(maps, np.repeat(r[None].numpy(), 2, 0)) for r in (red, blue))
    red_of, blue_of = (of["values"]["relevance_mass"] for of in (on_red, on_blue))
    if name == "gradient":  # of a mean: the same at every pixel
        assert red_of == pytest.approx(blue_of, abs=0.2)
    else:
        assert red_of[0] > 2 * blue_of[0]
        assert blue_of[1] > 2 * red_of[1]


def test_similarity_is_a_cosine_around_the_centre():
    centre = torch.tensor([1.0, 1.0])
    a = torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(
        similarity(a, torch.tensor([[5.0, 1.0]]), centre), torch.tensor([[1.0], [0.0]])
    )


def test_planted_pairs_share_one_digit():
    for first, second in pairs(3, "blue"):
        assert first.labels["blue"] == second.labels["blue"]
        assert first.labels["red"] != second.labels["red"]
    mask = first.regions["blue"].astype(np.float32)
    assert digit_share(mask, first, "blue") == mass(mask, first, "blue") == 1
    both = mask + first.regions["red"] + np.float32(1) * ~(first.regions["red"] | first.regions["blue"])
    assert digit_share(both, first, "blue") == pytest.approx(
        mask.sum() / (mask.sum() + first.regions["red"].sum())
    )
    assert mass(both, first, "blue") == pytest.approx(mask.mean())
    assert np.isnan(digit_share(0 * mask, first, "blue"))
