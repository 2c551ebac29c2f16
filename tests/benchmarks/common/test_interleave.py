"""Times side by side: who is called when, and what a ratio is."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.common.interleave import FEWEST_PAIRS, interleave, latency_row, ratio


def test_calls_change_order_in_every_round():
    made = []
    calls = {name: (lambda name=name: made.append(name)) for name in "abc"}
    times = interleave(calls, rounds=20, warm_up=2)
    rounds = [tuple(made[i : i + 3]) for i in range(6, len(made), 3)]
    assert made[:6] == ["a", "a", "b", "b", "c", "c"]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(column) for name, column in times.items()} == {"a": 20, "b": 20, "c": 20}


def test_the_clock_given_is_the_one_that_counts():
    times = interleave({"a": lambda: 3.0, "b": lambda: 5.0}, rounds=6, clock=lambda call: call())
    assert (set(times["a"]), set(times["b"])) == ({3.0}, {5.0})


def test_run_has_at_least_five_rounds():
    assert len(interleave({"a": lambda: None}, rounds=100, seconds=0)["a"]) == 5


def test_a_ratio_pairs_rounds():
    """Both columns drift alike, by far more than they differ; the pairing takes the drift out."""
    rng = np.random.default_rng(1)
    base = 10 + rng.uniform(0, 0.1, 400)
    found = ratio(1.05 * base, base)
    assert found.value == pytest.approx(1.05)
    assert (found.low, found.high) == pytest.approx((1.05, 1.05))
    assert ratio(base + rng.uniform(0, 0.05, 400), base).low < ratio(base + 0.05, base).high


def test_an_interval_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    runs = [ratio(rng.gamma(20, 1.1, 300), rng.gamma(20, 1.0, 300)) for _ in range(40)]
    assert sum(r.low < 1.1 < r.high for r in runs) >= 34


def test_too_few_rounds_give_no_ratio():
    base = np.arange(1.0, FEWEST_PAIRS + 1)
    assert latency_row(base, base)["ratio_to_encoder"] == 1
    assert latency_row(base[1:], base[1:])["ratio_to_encoder"] is None
    assert latency_row(base, None)["ratio_ci"] is None
    row = latency_row(base, base)
    assert (row["median_ms"], row["n"]) == (np.median(base), FEWEST_PAIRS)
