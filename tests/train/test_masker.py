"""The masking network: the lateral decoder and the authors', each for any pyramid."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.masker import LateralMasker, UNetMasker

RESNET50 = {"channels": (64, 256, 512, 1024, 2048), "sizes": tuple((s, s) for s in (112, 56, 28, 14, 7))}
EarlyMasker = partial(LateralMasker, early=True)
KINDS = [LateralMasker, EarlyMasker, UNetMasker]


def count(masker):
    return sum(p.numel() for p in masker.parameters())


def test_the_authors_resnet50_decoder_has_their_parameters():
    """9 013 377, counted from the authors' code (decoder A with the image as a skip)."""
    assert count(UNetMasker(**RESNET50, image_size=(224, 224), image_skip=True)) == 9_013_377


@pytest.mark.parametrize(
    ("channels", "sizes", "image", "levels", "taps"),
    [
        (*RESNET50.values(), 224, (14, 28, 56, 112, 224), [3, 2, 1, 0, None]),
        # the authors' ConvNeXt: stem and stage 1 both at 56; the stem is resized to 112
        (
            (96, 96, 192, 384, 768),
            [(s, s) for s in (56, 56, 28, 14, 7)],
            224,
            (14, 28, 56, 112, 224),
            [3, 2, 1, 0, None],
        ),
        # a ViT with patches of 14
        ((8,) * 4, ((16, 16),) * 4, 224, (28, 56, 112, 224), [2, 1, 0, None]),
        # a missing stride leaves its block without a skip
        ((4, 8), ((16, 16), (2, 2)), 64, (4, 8, 16, 32, 64), [None, None, 0, None, None]),
    ],
    ids=["resnet", "stride-4 stem", "vit", "missing stride"],
)
def test_unet_blocks_take_taps_of_their_size(channels, sizes, image, levels, taps):
    masker = UNetMasker(channels=channels, sizes=sizes, image_size=(image, image))
    assert masker.sizes == [(side, side) for side in levels]
    assert masker.taps == taps


def test_lateral_is_a_fiftieth_of_the_authors_decoder():
    """Projections to 32 32 32 16 8 channels, smoothings from one width to the next, BatchNorms, one logit."""
    lateral = count(LateralMasker(**RESNET50, image_size=(224, 224)))
    projected = 32 * (2048 + 1024 + 512) + 16 * 256 + 8 * 64
    smoothed = 9 * (32 * 32 + 32 * 32 + 32 * 16 + 16 * 8 + 8 * 8)
    assert lateral == projected + smoothed + 2 * (3 * 32 + 16 + 8) + 2 * (2 * 32 + 16 + 8 + 8) + 9 == 144_505
    assert lateral < 0.02 * 9_013_377


@pytest.mark.parametrize(("early", "taps"), [(False, [4, 3, 2, 1, 0]), (True, [3, 2, 1, 0])])
def test_early_leaves_out_the_deepest_tap(early, taps):
    masker = LateralMasker(**RESNET50, image_size=(224, 224), early=early)
    assert masker.taps == taps
    assert masker.sizes[-1] == (112, 112)
    pyramid = [torch.randn(1, c, *s) for c, s in zip(*RESNET50.values(), strict=True)]
    seen = [p if i in taps else None for i, p in enumerate(pyramid)]
    assert masker.eval()(seen, None).shape[2:] == (224, 224)


def test_fine_levels_are_narrow():
    masker = LateralMasker(**RESNET50, image_size=(224, 224))
    assert [projection[0].out_channels for projection in masker.lateral] == [32, 32, 32, 16, 8]
    assert [smooth[0].in_channels for smooth in masker.smooth] == [32, 32, 32, 16, 8]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("side", [8, 48])
def test_a_single_tap_is_always_read(early, side):
    """Also if `early` leaves it out, or if it is finer than the finest level."""
    masker = LateralMasker(channels=[4], sizes=[(side, side)], image_size=(64, 64), early=early)
    assert masker.taps == [0]


@pytest.mark.parametrize(
    ("image", "tokens", "finest"),
    [
        ((224, 224), (14, 14), (112, 112)),  # patches of 16: stride 2
        ((224, 224), (16, 16), (64, 64)),  # patches of 14: stride 3.5, because 1.75 would be finer than 2
        ((64, 96), (8, 12), (32, 48)),
        ((64, 96), (32, 48), (32, 48)),
        ((64, 32), (8, 16), (8, 16)),  # already at stride 2 in one direction
    ],
)
def test_a_coarse_pyramid_is_doubled_to_stride_2(image, tokens, finest):
    masker = LateralMasker(channels=(8,) * 4, sizes=(tokens,) * 4, image_size=image)
    assert masker.sizes[:4] == [tokens] * 4
    assert masker.sizes[-1] == finest
    seen = []
    masker.logit.register_forward_hook(lambda _, x, y: seen.append(tuple(y.shape[1:])))
    assert masker([torch.randn(2, 8, *tokens)] * 4, torch.zeros(2, 3, *image)).shape == (2, 1, *image)
    assert seen == [(1, *finest)]


@pytest.mark.parametrize("kind", [LateralMasker, UNetMasker])
def test_every_tap_and_every_parameter_matters(kind):
    torch.manual_seed(0)
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2)]
    masker = kind(channels=[5, 6, 7, 8], sizes=sizes, image_size=(64, 64))
    pyramid = [torch.randn(2, c, *s, requires_grad=True) for c, s in zip((5, 6, 7, 8), sizes, strict=True)]
    (masker(pyramid, torch.randn(2, 3, 64, 64)) * torch.randn(2, 1, 64, 64)).sum().backward()
    for name, leaf in [*masker.named_parameters(), *enumerate(pyramid)]:
        assert leaf.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_inference_repeats_and_images_do_not_mix(kind):
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
    kind=st.sampled_from([*KINDS, partial(UNetMasker, image_skip=True)]),
)
def test_any_size_and_any_taps_work(height, width, strides, kind):
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    masker = kind(channels=[3] * len(sizes), sizes=sizes, image_size=(height, width)).eval()
    logits = masker([torch.randn(1, 3, *s) for s in sizes], torch.randn(1, 3, height, width))
    assert logits.shape == (1, 1, height, width)
    assert logits.std() > 0


@pytest.mark.parametrize("image_skip", [False, True])
def test_only_an_image_skip_lets_the_image_in(image_skip):
    torch.manual_seed(0)
    masker = UNetMasker(channels=[4], sizes=[(4, 4)], image_size=(8, 8), image_skip=image_skip).eval()
    pyramid = [torch.randn(1, 4, 4, 4)]
    one, other = (masker(pyramid, torch.randn(1, 3, 8, 8)) for _ in range(2))
    assert torch.equal(one, other) is not image_skip
