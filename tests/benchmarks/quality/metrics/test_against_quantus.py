"""Equality with Quantus (0.6.0) on maps without ties and regions that are neither empty nor whole.

Where they differ on purpose: Quantus breaks ties by position, its pointing game counts any tied maximum,
and its Sparseness and Complexity add 1e-7 and 1e-12 against zeros.
"""

from __future__ import annotations

import numpy as np
import pytest
import quantus
import torch

from benchmarks.quality.metrics.localisation import (
    pointing_game,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from benchmarks.quality.metrics.maps import complexity, sparseness

N, H, W = 20, 12, 10


CASES = {
    relevance_rank: quantus.RelevanceRankAccuracy(disable_warnings=True),
    relevance_mass: quantus.RelevanceMassAccuracy(disable_warnings=True),
    pointing_game: quantus.PointingGame(disable_warnings=True),
    roc_auc: quantus.AUC(disable_warnings=True),
    complexity: quantus.Complexity(disable_warnings=True),
    sparseness: quantus.Sparseness(disable_warnings=True),
}


def ask(metric, maps, regions):
    """Quantus' figures; it wants a classifier, images and labels, though none is used."""
    answer = metric(
        model=torch.nn.Flatten(),
        x_batch=np.zeros((len(maps), 3, H, W), np.float32),
        y_batch=np.zeros(len(maps), int),
        a_batch=maps[:, None].astype(np.float64),  # a copy: Quantus works in place
        s_batch=regions[:, None],
        channel_first=True,
        device="cpu",
    )
    return np.asarray(answer, dtype=np.float64)


@pytest.mark.parametrize("figure", CASES, ids=lambda f: f.__name__)
def test_equal_without_ties(figure):
    rng = np.random.default_rng(0)
    maps = rng.permutation(N * H * W).reshape(N, H, W) + 1.0
    regions = rng.random((N, H, W)) < 0.3
    maps[: N // 2][regions[: N // 2]] += N * H * W  # half of the maps point at their region
    alone = figure in (complexity, sparseness)
    ours = [figure(a) if alone else figure(a, s) for a, s in zip(maps, regions, strict=True)]
    assert np.std(ours) > 0, "the case tells nothing"
    np.testing.assert_allclose(ours, ask(CASES[figure], maps, regions), atol=1e-6, rtol=0)


def test_the_pointing_game_differs_on_tied_maxima():
    """Not on a constant map, which Quantus refuses where all maps of a batch are constant."""
    region = np.zeros((1, H, W), bool)
    region[0, 0, 0] = True
    saturated = np.ones((1, H, W))
    saturated[0, -1] = 0
    assert ask(CASES[pointing_game], saturated, region) == 1
    assert pointing_game(saturated[0], region[0]) == pytest.approx(1 / ((H - 1) * W))
