"""Each measure of the gate on outputs with a known error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, ParityError
from runtime.media.occlusion import cosine
from runtime.package.parity import LIMITS, Limits, measure

FP32, FP16 = LIMITS["fp32"], LIMITS["fp16"]


def outputs(seed: int = 0, n: int = 6, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)).astype(np.float32), rng.random((n, 12, 10), np.float32)


def compare(embedding, mask, reference=None, limits: Limits = FP32):
    z, m = reference or outputs()
    return measure(embedding=embedding, mask=mask, reference_embedding=z, reference_mask=m, limits=limits)


def test_equal_outputs_pass_and_the_control_fails():
    parity = compare(*outputs())
    assert parity.embedding_error == parity.mask_error == 0
    assert parity.mask_iou == 1
    assert parity.mask_rank_correlation == pytest.approx(1)
    assert parity.n == 6
    assert parity.control_failed
    assert parity.control_embedding_error > 0.3
    assert parity.failures(FP32) == parity.failures(FP16) == []


def test_embedding_error_is_relative_to_the_median_distance():
    z = np.array([[0, 0], [3, 4], [6, 8]], np.float32)  # distances 5, 5, 10: median 5
    mask = outputs(n=3)[1]
    parity = compare(z + np.array([[0, 0], [0, 1], [0.5, 0]], np.float32), mask, (z, mask))
    assert parity.embedding_error == pytest.approx(1 / 5)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.integers(0, 5))
def test_embedding_error_ignores_scale_and_offset(scale, offset, seed):
    """The flaw of a cosine: a large common offset makes every pair look equal."""
    z, mask = outputs(seed)
    noise = 0.01 * outputs(seed + 100)[0]
    plain = compare(z + noise, mask, (z, mask)).embedding_error
    z64 = z.astype(np.float64) * scale + offset
    moved = compare(z64 + noise.astype(np.float64) * scale, mask, (z64, mask)).embedding_error
    assert moved == pytest.approx(plain, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.4), st.integers(0, 5))
def test_mask_error_is_the_mean_difference(shift, seed):
    z, mask = outputs(seed)
    reference = mask / 2
    assert compare(z, reference + np.float32(shift), (z, reference)).mask_error == pytest.approx(
        shift, abs=1e-6
    )


def test_iou_counts_pixels_of_all_images():
    z, _ = outputs(n=2)
    reference = np.zeros((2, 1, 4), np.float32)
    mask = reference.copy()
    reference[0, 0, :3] = 1  # 3 pixels
    mask[0, 0, 1:4] = 1  # 3 pixels, 2 of them shared
    assert compare(z, mask, (z, reference)).mask_iou == pytest.approx(2 / 4)
    assert compare(z, reference * 0, (z, reference * 0)).mask_iou == 1


def test_rank_correlation_ignores_saturation_and_survives_ties():
    z, mask = outputs()
    assert compare(z, mask**3, (z, mask)).mask_rank_correlation == pytest.approx(1), "only the order counts"
    assert compare(z, 1 - mask, (z, mask)).mask_rank_correlation == pytest.approx(-1)
    saturated = np.round(mask)
    assert compare(z, saturated, (z, saturated)).mask_rank_correlation is None
    assert compare(z, mask * 0 + 0.5, (z, mask)).mask_rank_correlation is None, "no order in a constant"
    steps = np.round(mask * 4) / 5 + 0.1
    assert compare(z, steps, (z, steps)).mask_rank_correlation == pytest.approx(1)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["embedding", "mask"])
def test_values_that_are_not_finite_fail_both_gates(poison, where):
    z, mask = (array.copy() for array in outputs())
    (z if where == "embedding" else mask)[3, 0] = poison
    parity = compare(z, mask)
    assert parity.failures(FP32)
    assert parity.failures(FP16)
    assert "inf" in json.dumps(parity.to_json(), allow_nan=False)
    assert where == "mask" or (parity.neighbours, parity.centred_cosine) == (0, -1)


@pytest.mark.parametrize(
    ("limits", "error", "passes"),
    [(FP32, 5e-4, True), (FP32, 2e-3, False), (FP16, 2e-3, True), (FP16, 5e-2, False)],
)
def test_embedding_limits(limits, error, passes):
    z, mask = outputs()
    moved = z.copy()
    moved[2, 0] += error * np.median([np.linalg.norm(a - b) for i, a in enumerate(z) for b in z[:i]])
    said = compare(moved, mask, limits=limits).failures(limits)
    assert (said == []) == passes
    assert passes or "embedding error" in said[0]


def test_mask_limits_are_those_of_the_precision():
    z, mask = outputs()
    shifted = np.clip(mask + np.float32(2e-4), 0, 1)
    assert "mask error" in compare(z, shifted).failures(FP32)[0]
    assert compare(z, shifted).failures(FP16) == []
    assert "IoU" in compare(z, np.roll(mask, 1, axis=2)).failures(FP16)[0]


def test_the_negative_control_detects_wide_limits():
    """Limits so wide that another image's reference passes: the control must notice."""
    z, mask = outputs(n=4)
    wide = Limits(embedding=10.0, mask_error=None, mask_iou=None)
    parity = compare(z, mask, (z, mask), wide)
    assert not parity.control_failed
    assert "negative control passed" in parity.failures(wide)[0]


Z, M = outputs()


@pytest.mark.parametrize(
    ("given", "reference", "error", "said"),
    [
        ((Z, M), (Z * 0 + 1, M), ParityError, "all alike"),
        ((Z, M), (Z * 0, M), ParityError, "all alike"),
        ((Z, M), (Z * np.nan, M), ParityError, "not finite"),
        ((Z[:1], M[:1]), (Z[:1], M[:1]), InputError, "1 reference image"),
        ((Z[:, 1:], M), (Z, M), ParityError, r"embedding \(6, 15\)"),
        ((Z, M[:, 1:]), (Z, M), ParityError, r"mask \(6, 11, 10\)"),
    ],
)
def test_useless_references_are_refused(given, reference, error, said):
    with pytest.raises(error, match=said):
        compare(*given, reference)


def test_the_centred_cosine_ignores_a_common_offset():
    z, mask = outputs()
    turned = np.roll(z, 1, axis=1)  # another direction, equally long
    far = z + 1000.0
    parity = compare(turned + 1000.0, mask, (far, mask))
    plain = [cosine(a, b) for a, b in zip(turned + 1000.0, far, strict=True)]
    assert min(plain) > 0.999
    assert parity.centred_cosine < 0.9


def test_a_neighbour_that_changes_is_counted():
    z = np.array([[0, 0], [10, 0], [0, 10.5], [30, 0]], np.float32)
    mask = outputs(n=4)[1]
    assert compare(z, mask, (z, mask)).neighbours == 1
    moved = z + np.array([[0, 0], [1, 0], [0, 0], [0, 0]], np.float32)  # image 0 is now nearer to 2 than to 1
    assert compare(moved, mask, (z, mask)).neighbours == 0.75
