"""Which layers go back to float: over a form whose every layer costs a known embedding error."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest

from export.int8.write import Form, badness, fit
from runtime.package.parity import LIMITS
from runtime.package.reference import Reference

LIMIT = LIMITS["int8"].embedding


def reference():
    """Four images whose embeddings are 1 apart, all with the same mask."""
    embedding = np.eye(4, dtype=np.float32) / np.sqrt(2)
    return Reference(np.zeros((4, 2, 2, 3), np.uint8), embedding, np.tile(np.float32([0, 1]), (4, 2, 1)))


def form(errors, built=None, losses=None):
    """An int8 graph that moves every embedding by the sum of its quantised layers' errors."""
    expected = reference()

    def build(keep):
        (built if built is not None else []).append(tuple(keep))
        error = sum(e for layer, e in errors.items() if layer not in keep)
        return onnx.ModelProto(doc_string=str(error))

    def run(model, images):
        moved = expected.embedding.copy()
        moved[:, 0] += float(model.doc_string)
        return moved, expected.mask

    return Form("fake", list(errors), build, lambda _: losses or errors, run)


def fitted(form, said=None):
    @contextlib.contextmanager
    def step(what):
        (said if said is not None else []).append(what)
        yield

    return fit(form, reference(), step=step)


@pytest.mark.parametrize(
    ("errors", "tried", "kept", "passes"),
    [
        pytest.param({"a": 0.4, "b": 0.4}, [0], "", True, id="none if the gate passes"),
        pytest.param(dict.fromkeys("acdefgh", 0.1) | {"b": 2}, [0, 1], "b", True, id="the worst only"),
        pytest.param(
            dict.fromkeys("abcdefgh", 0.05) | dict.fromkeys("cde", 1),
            [0, 1, 2, 4, 3],
            "cde",
            True,
            id="doubling, then halving",
        ),
        pytest.param(
            {f"{i}": 0.2 if i < 33 else 0.001 for i in range(100)},
            [0, 1, 2, 4, 8, 16, 32, 24, 28],
            map(str, range(32)),
            True,
            id="down to an eighth",
        ),
        pytest.param(dict.fromkeys("abcdef", 5), [0, 1, 2, 3], "abc", False, id="half of the layers at most"),
    ],
)
def test_the_worst_layers_go_back_to_float(errors, tried, kept, passes):
    built, said = [], []
    found = fitted(form({layer: e * LIMIT for layer, e in errors.items()}, built), said)
    assert set(found.kept) == set(kept)
    assert (badness(found.parity) <= 1) is passes
    assert [len(keep) for keep in built] == tried
    assert len(said) == len(tried) + (len(tried) > 1), "the ranking is a step too"


def test_best_graph_is_returned_if_none_passes():
    """A layer whose error cancels another's: alone in float it makes things worse."""
    errors = {"a": 4 * LIMIT, "b": -2 * LIMIT, "c": 0.0, "d": 0.0}
    found = fitted(form(errors, losses={"b": 3.0, "c": 2.0, "a": 1.0, "d": 0.0}))
    assert found.kept == []


@pytest.mark.parametrize(("factor", "passes"), [(0.9, True), (1.1, False)])
def test_badness_is_above_one_exactly_beyond_the_gate(factor, passes):
    moved = form({"a": factor * LIMIT})
    outputs = moved.run(moved.build(()), reference().images)
    assert (badness(reference().compare(*outputs, precision="int8")) <= 1) is passes
