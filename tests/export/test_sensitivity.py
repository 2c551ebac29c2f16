"""Which layers go back to float: over a form whose every layer costs a known embedding error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from export.sensitivity import Form, badness, layers_to_keep
from runtime.parity import LIMITS
from runtime.verify import Reference

LIMIT = LIMITS["int8"].embedding


def reference():
    """Four images whose embeddings are 1 apart, all with the same mask."""
    embedding = np.eye(4, dtype=np.float32) / np.sqrt(2)
    return Reference(np.zeros((4, 2, 2, 3), np.uint8), embedding, np.tile(np.float32([0, 1]), (4, 2, 1)))


def form(errors, built=None):
    """An int8 graph that moves every embedding by the sum of its quantised layers' errors."""
    expected = reference()

    def build(method, keep):
        (built if built is not None else []).append(tuple(keep))
        error = sum(e for layer, e in errors.items() if layer not in keep)
        return onnx.ModelProto(doc_string=str(error))

    def run(model, images):
        moved = expected.embedding.copy()
        moved[:, 0] += float(model.doc_string)
        return moved, expected.mask

    return Form("fake", list(errors), build, run)


def test_nothing_goes_back_where_the_gate_passes():
    built = []
    fine = form({"a": 0.4 * LIMIT, "b": 0.4 * LIMIT}, built)
    assert layers_to_keep(fine, "minmax", check=reference(), gate=reference()) == []
    assert built == [()]


def test_the_layers_that_cost_most_go_back_first_and_no_more_than_must():
    errors = {"a": 0.1, "b": 2.0, "c": 0.2, "d": 0.1, "e": 0.1, "f": 0.1, "g": 0.1, "h": 0.1}
    several = form({layer: e * LIMIT for layer, e in errors.items()})
    assert layers_to_keep(several, "minmax", check=reference(), gate=reference()) == ["b"]


def test_layers_are_added_by_doubling():
    errors = dict.fromkeys("abcdefgh", 0.05 * LIMIT) | dict.fromkeys("cde", LIMIT)
    kept = layers_to_keep(form(errors), "minmax", check=reference(), gate=reference())
    assert set(kept[:3]) == set("cde")
    assert len(kept) == 4


def test_it_gives_up_at_half_of_the_layers():
    hopeless = form(dict.fromkeys("abcdef", 5 * LIMIT))
    kept = layers_to_keep(hopeless, "minmax", check=reference(), gate=reference())
    assert len(kept) == 3
    assert badness(hopeless.measure(reference(), "minmax", kept)) > 1


@pytest.mark.parametrize(("factor", "passes"), [(0.9, True), (1.1, False)])
def test_badness_is_above_one_exactly_beyond_the_gate(factor, passes):
    moved = form({"a": factor * LIMIT})
    assert (badness(moved.measure(reference(), "minmax")) <= 1) is passes
