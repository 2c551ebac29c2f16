"""Ψ: the lateral decoder and the authors', each for any pyramid."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.masker import LateralMasker, UNetMasker

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


def test_lateral_is_a_fiftieth_of_the_authors_decoder():
    """32 (64 + 256 + 512 + 1024 + 2048) projected, 5 × 32 · 32 · 9 smoothed, 10 BatchNorms, one logit."""
    lateral = count(LateralMasker(**RESNET50, image_size=(224, 224)))
    assert lateral == 32 * 3904 + 5 * 9216 + 10 * 64 + 33 == 171_681
    assert lateral < 0.03 * 9_013_377


@pytest.mark.parametrize(
    ("image", "tokens", "logit_at"),
    [
        ((224, 224), (14, 14), (56, 56)),  # patches of 16: stride 4
        ((224, 224), (16, 16), (32, 32)),  # of 14: stride 7, because 3.5 would be finer than 4
        ((64, 96), (8, 12), (16, 24)),
        ((64, 96), (16, 24), (16, 24)),
        ((64, 32), (4, 8), (4, 8)),  # already at stride 4 in one direction
    ],
)
def test_lateral_doubles_a_coarse_pyramid_up_to_stride_4(image, tokens, logit_at):
    masker = LateralMasker(channels=(8,) * 4, sizes=(tokens,) * 4, image_size=image)
    assert masker.sizes[:4] == [tokens] * 4
    assert masker.sizes[-1] == logit_at
    seen = []
    masker.logit.register_forward_hook(lambda _, x, y: seen.append(tuple(y.shape[2:])))
    assert masker([torch.randn(2, 8, *tokens)] * 4, torch.zeros(2, 3, *image)).shape == (2, 1, *image)
    assert seen == [logit_at]


@pytest.mark.parametrize("kind", [LateralMasker, UNetMasker])
def test_every_tap_and_every_parameter_matters(kind):
    torch.manual_seed(0)
    sizes = [(32, 32), (16, 16), (8, 8), (4, 4)]
    masker = kind(channels=[5, 6, 7, 8], sizes=sizes, image_size=(64, 64))
    pyramid = [torch.randn(2, c, *s, requires_grad=True) for c, s in zip((5, 6, 7, 8), sizes, strict=True)]
    (masker(pyramid, torch.randn(2, 3, 64, 64)) * torch.randn(2, 1, 64, 64)).sum().backward()
    for name, leaf in [*masker.named_parameters(), *enumerate(pyramid)]:
        assert leaf.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("kind", [LateralMasker, UNetMasker])
def test_a_trained_masker_gives_the_same_map_every_time_and_images_do_not_mix(kind):
    """No random smoothing at inference, no batch statistics."""
    torch.manual_seed(0)
    masker = kind(channels=[4, 4], sizes=[(16, 16), (8, 8)], image_size=(32, 32))
    pyramid, image = [torch.randn(3, 4, s, s) for s in (16, 8)], torch.randn(3, 3, 32, 32)
    masker(pyramid, image)
    masker.eval()
    once = masker(pyramid, image)
    assert torch.equal(once, masker(pyramid, image))
    torch.testing.assert_close(once[1:2], masker([p[1:2] for p in pyramid], image[1:2]))


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(32, 90),
    width=st.integers(32, 90),
    strides=st.lists(st.sampled_from([2, 4, 8, 16, 32]), min_size=1, max_size=5, unique=True).map(sorted),
    kind=st.sampled_from([LateralMasker, UNetMasker, partial(UNetMasker, image_skip=True)]),
)
def test_any_size_any_taps(height, width, strides, kind):
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    masker = kind(channels=[3] * len(sizes), sizes=sizes, image_size=(height, width)).eval()
    logits = masker([torch.randn(1, 3, *s) for s in sizes], torch.randn(1, 3, height, width))
    assert logits.shape == (1, 1, height, width)
    assert logits.std() > 0


@pytest.mark.parametrize("image_skip", [False, True])
def test_image_skip_is_what_lets_the_image_in(image_skip):
    torch.manual_seed(0)
    masker = UNetMasker(channels=[4], sizes=[(4, 4)], image_size=(8, 8), image_skip=image_skip).eval()
    pyramid = [torch.randn(1, 4, 4, 4)]
    one, other = (masker(pyramid, torch.randn(1, 3, 8, 8)) for _ in range(2))
    assert torch.equal(one, other) is not image_skip
