"""Ψ: the lateral decoder and the authors', each for any pyramid."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.decoders import LATERALS, Lateral
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
    """Projections to 32 32 32 16 8 channels, smoothings from one width to the next, BatchNorms, one logit."""
    lateral = count(LateralMasker(**RESNET50, image_size=(224, 224), spec=Lateral()))
    projected = 32 * (2048 + 1024 + 512) + 16 * 256 + 8 * 64
    smoothed = 9 * (32 * 32 + 32 * 32 + 32 * 16 + 16 * 8 + 8 * 8)
    assert lateral == projected + smoothed + 2 * (3 * 32 + 16 + 8) + 2 * (2 * 32 + 16 + 8 + 8) + 9 == 144_505
    assert lateral < 0.02 * 9_013_377


@pytest.mark.parametrize(
    ("spec", "taps", "finest"),
    [
        (Lateral(), [4, 3, 2, 1, 0], 112),
        (Lateral(stride=4), [4, 3, 2, 1], 56),
        (Lateral(stride=8), [4, 3, 2], 28),
        (Lateral(early=True), [3, 2, 1, 0], 112),
        (Lateral(stride=64), [4], 7),  # nothing is that coarse: the deepest is read all the same
    ],
)
def test_a_specification_says_which_taps_are_read(spec, taps, finest):
    masker = LateralMasker(**RESNET50, image_size=(224, 224), spec=spec)
    assert masker.taps == taps
    assert masker.sizes[-1] == (finest, finest)
    pyramid = [torch.randn(1, c, *s) for c, s in zip(*RESNET50.values(), strict=True)]
    seen = [p if i in taps else None for i, p in enumerate(pyramid)]
    assert masker.eval()(seen, None).shape[2:] == (224, 224)


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        (Lateral(), [32, 32, 32, 16, 8]),
        (Lateral(width=16), [16, 16, 16, 8, 8]),
        (Lateral(narrowest=32), [32] * 5),
    ],
)
def test_fine_levels_are_narrow(spec, widths):
    masker = LateralMasker(**RESNET50, image_size=(224, 224), spec=spec)
    assert [projection[0].out_channels for projection in masker.lateral] == widths
    assert [smooth[0].in_channels for smooth in masker.smooth] == widths


def test_an_early_decoder_of_a_single_tap_still_reads_it():
    masker = LateralMasker(channels=[4], sizes=[(8, 8)], image_size=(64, 64), spec=Lateral(early=True))
    assert masker.taps == [0]


def test_sub_pixel_logits_lie_where_their_channel_says():
    """Channel 2i + j of a cell is its pixel (i, j)."""
    spec = Lateral(stride=2, subpixel=2)
    masker = LateralMasker(channels=[4], sizes=[(2, 2)], image_size=(4, 4), spec=spec)
    torch.nn.init.zeros_(masker.logit.weight)
    masker.logit.bias.data = torch.arange(4.0)
    logits = masker.eval()([torch.randn(1, 4, 2, 2)], torch.zeros(1, 3, 4, 4))[0, 0]
    assert torch.equal(logits, torch.tensor([[0.0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]))


@pytest.mark.parametrize(
    ("image", "tokens", "finest"),
    [
        ((224, 224), (14, 14), (56, 56)),  # patches of 16: stride 4
        ((224, 224), (16, 16), (32, 32)),  # of 14: stride 7, because 3.5 would be finer than 4
        ((64, 96), (8, 12), (16, 24)),
        ((64, 96), (16, 24), (16, 24)),
        ((64, 32), (4, 8), (4, 8)),  # already at stride 4 in one direction
    ],
)
def test_lateral_doubles_a_coarse_pyramid_up_to_its_stride(image, tokens, finest):
    spec = Lateral(stride=4, subpixel=2)
    masker = LateralMasker(channels=(8,) * 4, sizes=(tokens,) * 4, image_size=image, spec=spec)
    assert masker.sizes[:4] == [tokens] * 4
    assert masker.sizes[-1] == finest
    seen = []
    masker.logit.register_forward_hook(lambda _, x, y: seen.append(tuple(y.shape[2:])))
    assert masker([torch.randn(2, 8, *tokens)] * 4, torch.zeros(2, 3, *image)).shape == (2, 1, *image)
    assert seen == [finest]  # four logits a cell
    assert masker.subpixel == 2


def lateral(name):
    return partial(LateralMasker, spec=LATERALS[name])


@pytest.mark.parametrize("kind", [lateral("lateral"), UNetMasker])
def test_every_tap_and_every_parameter_matters(kind):
    torch.manual_seed(0)
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2)]
    masker = kind(channels=[5, 6, 7, 8], sizes=sizes, image_size=(64, 64))
    pyramid = [torch.randn(2, c, *s, requires_grad=True) for c, s in zip((5, 6, 7, 8), sizes, strict=True)]
    (masker(pyramid, torch.randn(2, 3, 64, 64)) * torch.randn(2, 1, 64, 64)).sum().backward()
    for name, leaf in [*masker.named_parameters(), *enumerate(pyramid)]:
        assert leaf.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("kind", [*map(lateral, LATERALS), UNetMasker])
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
    kind=st.sampled_from([*map(lateral, LATERALS), UNetMasker, partial(UNetMasker, image_skip=True)]),
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
