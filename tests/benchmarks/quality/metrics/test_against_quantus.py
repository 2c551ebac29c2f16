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
from benchmarks.quality.metrics.robustness import average_sensitivity

N, H, W = 20, 12, 10


CASES = {
    relevance_rank: quantus.RelevanceRankAccuracy(disable_warnings=True),
    relevance_mass: quantus.RelevanceMassAccuracy(disable_warnings=True),
    pointing_game: quantus.PointingGame(disable_warnings=True),
    roc_auc: quantus.AUC(disable_warnings=True),
    complexity: quantus.Complexity(disable_warnings=True),
    sparseness: quantus.Sparseness(disable_warnings=True),
}


def ask(metric, maps, regions=None, images=None, **options):
    """Quantus' figures; it wants a classifier and labels whether or not they are used."""
    images = np.zeros((len(maps), 3, *maps.shape[1:]), np.float32) if images is None else images
    answer = metric(
        model=torch.nn.Flatten(),
        x_batch=images,
        y_batch=np.zeros(len(maps), int),
        a_batch=maps[:, None].astype(np.float64),  # a copy: Quantus works in place
        s_batch=None if regions is None else regions[:, None],
        channel_first=True,
        device="cpu",
        **options,
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


def squares(x):
    """A toy explainer: squared colours, summed; (N, 3, H, W) → (N, H, W)."""
    return x.square().sum(1)


def test_average_sensitivity_with_the_same_noise():
    x = torch.randn(4, 3, H, W, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)

    def perturb(arr, indices, lower_bound, **_):
        u = 2 * torch.rand(x.shape, generator=noise) - 1
        return arr + lower_bound * u.numpy().reshape(arr.shape)

    def explain(model, inputs, targets, **_):
        maps = squares(torch.as_tensor(inputs)).numpy()
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
        return ((maps - low) / (high - low))[:, None]

    metric = quantus.AvgSensitivity(
        nr_samples=5, lower_bound=0.2, perturb_func=perturb, normalise=False, disable_warnings=True
    )
    maps = explain(None, x, None)[:, 0]
    theirs = ask(metric, maps, images=x.numpy(), explain_func=explain)
    ours = average_sensitivity(squares, x, generator=torch.Generator().manual_seed(1), draws=5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert theirs.min() > 0.01
