"""Decoders against the authors': what is paired, what is not inferior, and what is drawn and written."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.latency.frontier import compare, costs, trainings
from benchmarks.pages.frontier_picture import draw
from benchmarks.pages.tables import frontier
from train.config import MASKERS


def rows(shift, *, spread=0.0, seeds=3, scenes=60):
    """Scores that differ much from scene to scene, and by `shift` between the decoders."""
    rng = np.random.default_rng(0)
    scene = rng.uniform(0, 1, scenes)
    return [
        {
            "decoder": decoder,
            "seed": seed,
            "relevance_rank": list(scene + by + spread * rng.normal(size=scenes)),
        }
        for decoder, by in (("unet", 0.0), ("lateral", shift))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(("shift", "verdict"), [(-0.019, True), (-0.021, False), (0.05, True)])
def test_scenes_are_paired(shift, verdict):
    """Scenes spread over [0, 1]; a shift of 0.001 beyond the margin is seen all the same."""
    found = compare(rows(shift), "lateral", "relevance_rank")
    assert found["difference"] == pytest.approx(shift)
    assert found["difference_ci"] == pytest.approx([shift, shift])
    assert found["not_inferior"] is verdict


def test_seeds_that_differ_widen_the_interval():
    calm, wild = rows(0.0, spread=0.01), rows(0.0, spread=0.01)
    for i, row in enumerate(wild):
        row["relevance_rank"] = [v + 0.03 * (i % 3 - 1) for v in row["relevance_rank"]]
    narrow, wide = (compare(r, "lateral", "relevance_rank")["difference_ci"] for r in (calm, wild))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert not compare(wild, "lateral", "relevance_rank")["not_inferior"]


def test_costs_reach_the_page_and_the_drawing(tmp_path):
    decoders = ["lateral", "unet"]
    cost = costs(["test_resnet"], decoders, rounds=200, size=32)
    assert [row["variant"] for row in cost] == ["encoder", "control", *decoders]
    assert set(decoders) <= set(MASKERS)
    assert cost[0]["ratio_to_encoder"] == 1
    assert cost[3]["ratio_ci"][0] > 1
    comparisons = [
        {"encoder": "digits", "kind": kind, **compare(rows(0.0), decoder, "relevance_rank"), "metric": metric}
        for decoder in decoders
        for kind in ("standard", "small")
        for metric in ("relevance_rank", "insertion_minus_deletion")
    ]
    result = {"rows": cost, "comparisons": comparisons}
    page = frontier(result)
    assert page.count("`lateral`") == page.count("`unet`") == 1
    assert "Control (the encoder against itself, same runs): test_resnet" in page
    draw(result, tmp_path / "frontier.png", model="test_resnet")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_compared_decoders_are_trained_with_every_seed():
    assert list(trainings(["digits", "patch"], ["lateral", "lateral-early", "unet"], [0, 1])) == [
        ("digits", "lateral", 0),
        ("digits", "lateral", 1),
        ("digits", "lateral-early", 0),
        ("digits", "unet", 0),
        ("digits", "unet", 1),
        ("patch", "lateral", 0),
        ("patch", "unet", 0),
    ]
