"""The mask code: within its limit, exact on smooth masks, and safe to decode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from runtime.errors import BackendUnavailable, InputError
from runtime.index.code import LIMIT, decode_mask, encode_mask
from runtime.index.diff import iou


def smooth(seed: int, *, cells: int = 12, side: int = 224) -> np.ndarray:
    """As a masker computes it: the sigmoid of bilinearly enlarged logits, float32 (side, side)."""
    coarse = 4 * np.random.default_rng(seed).standard_normal((cells, cells))
    half = Image.fromarray(coarse.astype(np.float32)).resize((side // 2,) * 2, Image.Resampling.BICUBIC)
    return 1 / (1 + np.exp(-np.asarray(half.resize((side, side), Image.Resampling.BILINEAR))))


@given(
    arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.floats(0, 1, width=32))
)
@settings(deadline=None)
def test_small_masks_keep_shape_and_range(mask):
    code = encode_mask(mask)
    decoded = decode_mask(code)
    assert len(code) <= LIMIT
    assert (decoded.shape, decoded.dtype) == (mask.shape, np.float32)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


@pytest.mark.parametrize("shape", [(224, 224), (70, 300), (1, 1000), (384, 518)])
def test_noise_fits_the_limit(shape):
    code = encode_mask(np.random.default_rng(0).random(shape, np.float32))
    assert len(code) <= LIMIT
    assert decode_mask(code).shape == shape


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
def test_constant_mask_is_kept(value):
    decoded = decode_mask(encode_mask(np.full((224, 224), value, np.float32)))
    assert np.abs(decoded - value).max() < (1e-6 if value in (0, 1) else 0.02)


def test_smooth_mask_is_nearly_kept():
    for seed in range(4):
        mask = smooth(seed)
        decoded = decode_mask(encode_mask(mask))
        assert iou(mask > 0.5, decoded > 0.5) > 0.97
        assert np.abs(mask - decoded).mean() < 0.02


def test_loss_grows_with_detail():
    def lost(mask):
        return float(np.abs(mask - decode_mask(encode_mask(mask))).mean())

    losses = [lost(smooth(0, cells=cells)) for cells in (4, 16, 56)]
    assert losses == sorted(losses)
    assert losses[-1] < 0.25


def test_invalid_masks_are_refused():
    for mask in (np.zeros(3), np.zeros((0, 3)), np.full((2, 2), np.nan), np.zeros((1, 5000))):
        with pytest.raises(InputError, match="a mask float64"):
            encode_mask(mask)


WHOLE = encode_mask(smooth(1, side=64))


@given(st.binary(max_size=60), st.integers(0, 900))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused_or_decoded(junk, at):
    code = bytearray(WHOLE)
    code[at : at + len(junk)] = junk
    for given_bytes in (junk, bytes(code[:LIMIT])):
        try:
            decoded = decode_mask(given_bytes)
        except InputError:
            continue
        assert decoded.ndim == 2
        assert np.isfinite(decoded).all()


def test_inconsistent_codes_are_refused():
    code = WHOLE
    for header in (b"\x01\x02\xff\xff\xff\xff", b"\x01\x01\x40\x00\x41\x00", b"\x01\x00\x40\x00\x40\x00"):
        with pytest.raises(InputError, match="mask code"):
            decode_mask(header + code[6:])
    with pytest.raises(InputError, match="starts with 02"):
        decode_mask(b"\x02" + code[1:])
    with pytest.raises(InputError, match="1001 bytes"):
        decode_mask(code.ljust(LIMIT + 1, b"\0"))


def test_pillow_without_webp_is_an_error(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(BackendUnavailable, match="no WebP"):
        encode_mask(np.zeros((4, 4)))
