"""Planted regions, chance values, every figure against the average over random tie-breaks; concentration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.quality.metrics.localisation import (
    mask_inside,
    mask_outside,
    pointing_game,
    rank_corrected,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from benchmarks.quality.metrics.maps import complexity, sparseness
from runtime.errors import InputError

FIGURES = [relevance_rank, rank_corrected, relevance_mass, pointing_game, roc_auc, mask_inside, mask_outside]
BY_RANK = [relevance_rank, rank_corrected, pointing_game, roc_auc]


def small(values):
    """(map, region) of 2 x 3 pixels, the region neither empty nor whole."""
    region = arrays(bool, (2, 3)).filter(lambda s: s.any() and not s.all())
    return st.tuples(arrays(np.float64, (2, 3), elements=values), region)


TIED = small(st.sampled_from([0.0, 1.0, 2.0]))
SIGNED = small(st.integers(-50, 50).map(float))


@pytest.fixture
def region():
    """3 x 4 of 8 x 8 pixels."""
    s = np.zeros((8, 8), dtype=bool)
    s[2:5, 1:5] = True
    return s


def test_the_region_itself_is_a_perfect_map(region):
    a = region.astype(np.float32)
    expected = {f: 0.0 if f is mask_outside else 1.0 for f in FIGURES}
    assert {f: f(a, region) for f in FIGURES} == expected


def test_its_complement_is_the_worst(region):
    a = 1.0 - region
    assert [f(a, region) for f in (relevance_rank, relevance_mass, pointing_game, roc_auc)] == [0, 0, 0, 0]
    assert rank_corrected(a, region) == pytest.approx(-12 / 52)


@pytest.mark.parametrize("value", [0.25, 1.0])
def test_a_constant_map_scores_chance(region, value):
    a = np.full(region.shape, value)
    area = pytest.approx(12 / 64)
    assert relevance_rank(a, region) == relevance_mass(a, region) == pointing_game(a, region) == area
    assert roc_auc(a, region) == 0.5
    assert rank_corrected(a, region) == pytest.approx(0)
    assert mask_inside(a, region) == mask_outside(a, region) == value


def by_brute_force(a, s):
    """Rank, pointing game and AUC, averaged over all orders of the pixels before a stable sort."""
    a, s = a.ravel(), s.ravel()
    rows = []
    for before in itertools.permutations(range(len(a))):
        hit = s[sorted(before, key=lambda i: -a[i])]  # the region, most important pixel first
        below = np.cumsum(~hit[::-1])[::-1]  # pixels outside S from here down
        pairs = s.sum() * (~s).sum()
        rows.append((hit[: s.sum()].mean(), hit[0], below[hit].sum() / pairs))
    return np.mean(rows, axis=0)


@settings(max_examples=40, deadline=None)
@given(TIED)
def test_ties_are_the_average_over_random_orders(pair):
    a, s = pair
    ours = relevance_rank(a, s), pointing_game(a, s), roc_auc(a, s)
    np.testing.assert_allclose(ours, by_brute_force(a, s), atol=1e-12)


@given(TIED, st.permutations(range(6)))
def test_position_does_not_matter(pair, order):
    a, s = pair
    moved, region = (v.ravel()[list(order)].reshape(2, 3) for v in (a, s))
    for figure in FIGURES:
        np.testing.assert_allclose(figure(moved, region), figure(a, s), atol=1e-12)


@given(SIGNED)
def test_ranks_survive_every_increasing_transform(pair):
    a, s = pair
    for figure in BY_RANK:
        for transform in (np.arctan, np.exp, lambda v: 3 * v - 100, lambda v: v**3):
            assert figure(transform(a), s) == figure(a, s)


@given(SIGNED)
def test_ranges(pair):
    a, s = pair
    area = s.mean()
    assert 0 <= relevance_rank(a, s) <= 1
    assert -area / (1 - area) - 1e-9 <= rank_corrected(a, s) <= 1
    assert 0 <= pointing_game(a, s) <= 1
    assert 0 <= roc_auc(a, s) <= 1
    assert roc_auc(-a, s) == pytest.approx(1 - roc_auc(a, s))
    if abs(a).sum():
        assert 0 <= relevance_mass(abs(a), s) <= 1


@pytest.mark.filterwarnings("error")
def test_undefined_is_nan(region):
    a = np.arange(64.0).reshape(8, 8)
    empty, whole = np.zeros_like(region), np.ones_like(region)
    assert np.isnan([f(a, empty) for f in FIGURES]).all()
    assert np.isnan([f(a, whole) for f in (rank_corrected, roc_auc, mask_outside)]).all()
    assert relevance_rank(a, whole) == pointing_game(a, whole) == relevance_mass(a, whole) == 1
    assert np.isnan(relevance_mass(np.zeros((8, 8)), region))


@pytest.mark.parametrize(
    ("map", "kind", "said"),
    [
        (np.zeros((8, 8)), float, "bool region"),
        (np.zeros((7, 8)), bool, "map's shape"),
        (np.full((8, 8), np.nan), bool, "not finite"),
        (np.full((8, 8), -1.0), bool, ">= 0"),
    ],
)
def test_unmeasurable_maps_are_refused(region, map, kind, said):
    with pytest.raises(InputError, match=said):
        relevance_mass(map, region.astype(kind))


MAPS = arrays(np.float64, (3, 4), elements=st.integers(0, 100).map(float)).filter(np.any)


def spike():
    a = np.zeros((8, 8))
    a[3, 5] = 7
    return a


def test_flat_and_spiked():
    flat = np.full((8, 8), 0.3)
    assert complexity(flat) == pytest.approx(math.log(64))
    assert sparseness(flat) == pytest.approx(0)
    assert complexity(spike()) == 0
    assert sparseness(spike()) == pytest.approx(1 - 1 / 64)


def test_a_pure_rank_map_has_fixed_values():
    """Which is why neither figure says anything of such a map."""
    ranks = np.random.default_rng(0).permutation(224 * 224).reshape(224, 224)
    assert complexity(ranks) == pytest.approx(10.630, abs=5e-4)
    assert sparseness(ranks) == pytest.approx(1 / 3, abs=5e-5)


@given(MAPS)
def test_range_scale_and_definition(a):
    assert -1e-9 <= complexity(a) <= math.log(12) + 1e-9
    assert -1e-9 <= sparseness(a) <= 1 - 1 / 12 + 1e-9
    assert complexity(1e-3 * a) == pytest.approx(complexity(a))
    assert sparseness(1e3 * a) == pytest.approx(sparseness(a), abs=1e-12)
    pairs = np.abs(a.ravel()[:, None] - a.ravel()).mean()  # Gini: half the relative mean difference
    assert sparseness(a) == pytest.approx(pairs / (2 * a.mean()), abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_empty_map_has_no_distribution():
    assert math.isnan(complexity(np.zeros((4, 4))))
    assert math.isnan(sparseness(np.zeros((4, 4))))


@pytest.mark.parametrize("figure", [complexity, sparseness])
def test_negative_values_are_refused(figure):
    with pytest.raises(InputError, match="down to -1"):
        figure(spike() - 1)
