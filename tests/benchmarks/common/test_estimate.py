"""Means, their errors, and the images that have no figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.common.estimate import Estimate, estimate


def test_mean_and_standard_error():
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found == Estimate(mean=3.0, error=pytest.approx(math.sqrt(14 / 3) / 2), count=4, undefined=0)
    assert found.upper == found.mean + 2 * found.error


@pytest.mark.filterwarnings("error")
def test_undefined_images_are_counted_not_averaged():
    assert estimate(np.array([1.0, np.nan, 3.0])) == Estimate(mean=2.0, error=1.0, count=2, undefined=1)
    one, none = estimate([5.0]), estimate([np.nan])
    assert (one.mean, one.count, math.isnan(one.error)) == (5, 1, True)
    assert (none.count, none.undefined, math.isnan(none.mean)) == (0, 1, True)
