"""Explainers that never move, that ignore the model, that follow it; and a model that stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import nn

from benchmarks.common.estimate import estimate
from benchmarks.quality.metrics.maps import midranks, unit_ranks
from benchmarks.quality.metrics.robustness import average_sensitivity, mprt, mprt_floor, randomised
from runtime.errors import InputError
from train.encoder.frozen import weights_fingerprint

N, H, W = 6, 9, 7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


X = noise(N, 3, H, W)


def red(x):
    return x[:, 0]


def gradient_times_nothing(x):
    """One ramp for every image."""
    return torch.arange(H * W, dtype=torch.float32).view(1, H, W).expand(len(x), H, W)


def test_sensitivity_is_the_formula():
    """A scaled and moved map has the same one, a map that never moves has none."""
    still = average_sensitivity(gradient_times_nothing, X, generator=generator(), draws=3)
    np.testing.assert_array_equal(still, np.zeros(N))
    found, scaled = (
        average_sensitivity(explain, X, generator=generator(7), draws=2)
        for explain in (red, lambda x: 5 * red(x) - 3)
    )
    np.testing.assert_allclose(scaled, found, rtol=1e-5)
    again = generator(7)
    expected = np.zeros(N)
    for _ in range(2):
        u = 0.4 * torch.rand(X.shape, generator=again) - 0.2
        for i, (a, b) in enumerate(zip(red(X).numpy(), red(X + u).numpy(), strict=True)):
            a, b = ((v - v.min()) / (v.max() - v.min()) for v in (a, b))
            expected[i] += np.linalg.norm(a - b) / np.linalg.norm(a) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_constant_map_has_no_sensitivity():
    found = average_sensitivity(lambda x: torch.ones(len(x), H, W), X, generator=generator(), draws=2)
    assert np.isnan(found).all()
    assert estimate(found).undefined == N


def trained(name):
    """A small model every parameter and statistic of which is far from its initial value."""
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.copy_(3 + torch.rand(tensor.shape, generator=generator()))
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_randomised_copies_leave_the_model_unchanged(name):
    model = trained(name)
    before, state = weights_fingerprint(model), torch.get_rng_state()
    other, same = randomised(model, seed=1), randomised(model, seed=1)
    assert weights_fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not other.training
    assert (
        weights_fingerprint(same)
        == weights_fingerprint(other)
        != weights_fingerprint(randomised(model, seed=2))
    )
    left = [
        n for n, p in other.state_dict().items() if p.numel() > 1 and torch.equal(p, model.state_dict()[n])
    ]
    assert not left
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()


def test_an_error_half_way_leaves_the_model():
    class Broken(nn.Linear):
        def reset_parameters(self):
            if hasattr(self, "ready"):
                self.weight.data.zero_()
                raise RuntimeError("half way")

    model = nn.Sequential(nn.Linear(3, 3), Broken(3, 3))
    with torch.no_grad():
        model[1].weight.fill_(1)
        model[1].bias.fill_(1)
    model[1].ready = True
    before, state = weights_fingerprint(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="half way"):
        randomised(model, seed=0)
    assert weights_fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def activation(model):
    """An explainer that follows its model: the first channel of its output, signed."""
    return lambda x: model(x)[:, 0]


def test_an_explainer_that_ignores_the_model():
    assert mprt(red, red, X) == pytest.approx(np.ones(N))


def test_an_explainer_that_follows_the_model():
    x = noise(40, 3, 16, 16)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    model, other = randomised(layers, seed=0), randomised(layers, seed=1)
    assert mprt(activation(model), activation(model), x) == pytest.approx(np.ones(40))
    assert mprt(activation(model), activation(other), x).mean() < 0.4


def test_signs_count_and_are_not_folded():
    """-x and x are perfectly (anti)correlated; x and |x| are not, though abs() would make them equal."""
    assert mprt(red, lambda x: -red(x), X) == pytest.approx(np.ones(N))
    assert mprt(red, lambda x: red(x).abs(), X).mean() < 0.6


def test_a_constant_map_is_counted():
    def first_is_flat(x):
        maps = red(x).clone()
        maps[0] = 1
        return maps

    found = mprt(red, first_is_flat, X)
    assert np.isnan(found).tolist() == [True] + [False] * (N - 1)
    assert (estimate(found).count, estimate(found).undefined) == (N - 1, 1)
    floor = mprt_floor(first_is_flat(X))
    assert (floor.count, floor.undefined) == (N - 1, 1)


def test_correlation_is_scipys_with_and_without_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 5, (2, 30)).astype(float)
        assert unit_ranks(a) @ unit_ranks(b) == pytest.approx(spearmanr(a, b).statistic)
    assert midranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


def test_the_floor_is_the_mean_over_pairs():
    maps = noise(5, H, W) + gradient_times_nothing(X)[:5] / 30  # they share a ramp
    rho = [abs(spearmanr(maps[i].ravel(), maps[j].ravel()).statistic) for i in range(5) for j in range(i)]
    floor = mprt_floor(maps)
    assert floor.mean == pytest.approx(np.mean(rho))
    assert floor.mean < floor.upper


def test_the_floors_error_is_the_jackknife():
    maps = noise(7, H, W)
    without = np.array([mprt_floor(torch.cat([maps[:i], maps[i + 1 :]])).mean for i in range(7)])
    expected = np.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum())
    assert mprt_floor(maps).error == pytest.approx(expected)


def test_a_floor_needs_three_maps():
    with pytest.raises(InputError, match="at least 3"):
        mprt_floor(torch.ones(9, H, W))
