"""Ψ is the authors' decoder, for any pyramid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.masker import UNetMasker

RESNET50 = {"channels": (64, 256, 512, 1024, 2048), "sizes": tuple((s, s) for s in (112, 56, 28, 14, 7))}


def count(masker):
    return sum(p.numel() for p in masker.parameters())


def test_parameters_of_the_authors_resnet50_decoder():
    """9 013 377, counted from the authors' code (decoder A with the image as a skip)."""
    assert count(UNetMasker(**RESNET50, image_size=(224, 224), image_skip=True)) == 9_013_377


def test_resnet_blocks_take_the_taps_of_their_own_size():
    masker = UNetMasker(**RESNET50, image_size=(224, 224))
    assert masker.sizes == [(14, 14), (28, 28), (56, 56), (112, 112), (224, 224)]
    assert masker.taps == [3, 2, 1, 0, None]


def test_a_stride_4_stem_is_the_skip_of_the_stride_2_block():
    """The authors' ConvNeXt: stem and stage 1 both at 56; the stem is resized to 112."""
    sizes = tuple((s, s) for s in (56, 56, 28, 14, 7))
    masker = UNetMasker(channels=(96, 96, 192, 384, 768), sizes=sizes, image_size=(224, 224))
    assert masker.taps == [3, 2, 1, 0, None]


def test_vit_with_patches_of_14():
    masker = UNetMasker(channels=(8,) * 4, sizes=((16, 16),) * 4, image_size=(224, 224))
    assert masker.sizes == [(28, 28), (56, 56), (112, 112), (224, 224)]
    assert masker.taps == [2, 1, 0, None]


def test_a_missing_stride_leaves_its_block_without_a_skip():
    masker = UNetMasker(channels=(4, 8), sizes=((16, 16), (2, 2)), image_size=(64, 64))
    assert masker.sizes == [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert masker.taps == [None, None, 0, None, None]


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(32, 90),
    width=st.integers(32, 90),
    strides=st.lists(st.sampled_from([2, 4, 8, 16, 32]), min_size=1, max_size=5, unique=True).map(sorted),
    image_skip=st.booleans(),
)
def test_any_size_any_taps(height, width, strides, image_skip):
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    masker = UNetMasker(
        channels=[3] * len(sizes), sizes=sizes, image_size=(height, width), image_skip=image_skip
    ).eval()
    logits = masker([torch.randn(1, 3, *s) for s in sizes], torch.randn(1, 3, height, width))
    assert logits.shape == (1, 1, height, width)


@pytest.mark.parametrize("image_skip", [False, True])
def test_image_skip_is_what_lets_the_image_in(image_skip):
    torch.manual_seed(0)
    masker = UNetMasker(channels=[4], sizes=[(4, 4)], image_size=(8, 8), image_skip=image_skip).eval()
    pyramid = [torch.randn(1, 4, 4, 4)]
    one, other = (masker(pyramid, torch.randn(1, 3, 8, 8)) for _ in range(2))
    assert torch.equal(one, other) is not image_skip
