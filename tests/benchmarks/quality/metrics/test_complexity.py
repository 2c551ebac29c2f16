"""Flat, spiked and pure rank maps, whose entropy and Gini index are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.quality.metrics.maps import complexity, sparseness
from runtime.errors import InputError

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
