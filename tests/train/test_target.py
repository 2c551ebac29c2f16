"""A masker that takes a target, and the pairs it is trained on, on toys with known answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from train.masker import LateralMasker
from train.objective import Batch, region_worth
from train.pairs import BLOB, KINDS, SIDE, mixed, regions
from train.target import Target, likeness_loss

SIZES = ((16, 16), (8, 8), (4, 4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masker(dimension=12):
    torch.manual_seed(0)
    return LateralMasker(channels=(4, 6, 8), sizes=SIZES, image_size=(32, 32), dimension=dimension).eval()


def pyramid(n=3):
    return [torch.randn(n, c, *size, generator=seeded()) for c, size in zip((4, 6, 8), SIZES, strict=True)]


def test_a_zero_target_is_the_image_itself():
    network, features = masker(), pyramid()
    toward = torch.randn(3, 12, generator=seeded())
    toward[1] = 0
    plain, asked = network(features, None), network(features, None, toward)
    assert torch.equal(plain[1], asked[1])
    assert (plain[0] - asked[0]).abs().max() > 1e-3
    assert torch.equal(network(features, None, toward[[2, 1, 0]])[1], plain[1])


def test_only_the_direction_from_the_centre_counts():
    network, features = masker(), pyramid()
    network.target.centre.copy_(torch.arange(12.0))
    away = torch.randn(3, 12, generator=seeded())
    one, other = (network(features, None, network.target.centre + scale * away) for scale in (1, 5))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_masker_without_targets_refuses_one():
    network = LateralMasker(channels=(4, 6, 8), sizes=SIZES, image_size=(32, 32))
    with pytest.raises(InputError, match="--toward"):
        network(pyramid(), None, torch.ones(3, 12))


def test_the_fit_predicts_the_embedding_from_a_map():
    """The embedding is a turned copy of the map's mean: cells are like the target that they are made of."""
    generator = seeded()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    kinds = torch.randn(5, 8, generator=generator)
    means = kinds[torch.randint(5, (200,), generator=generator)]
    means = means + 0.1 * torch.randn(200, 8, generator=generator)
    embeddings = torch.cat([means, torch.zeros(200, 8)], dim=1) @ turn
    target = Target(dimension=16, channels=[8], widths=[4])
    target.centre.copy_(embeddings.mean(dim=0))
    target.fit([means], embeddings)
    cells = kinds.T[None, :, :, None]  # five cells, one of each kind
    asked = torch.cat([kinds, torch.zeros(5, 8)], dim=1) @ turn
    _, (alike,) = target([cells.expand(5, -1, -1, -1)], [torch.zeros(5, 4, 5, 1)], asked)
    assert torch.equal(alike[:, 0, :, 0].argmax(dim=1), torch.arange(5))


@given(seed=st.integers(0, 1000), height=st.integers(20, 70), width=st.integers(20, 70))
@settings(max_examples=20, deadline=None)
def test_regions_are_neither_nothing_nor_everything(seed, height, width):
    found = regions(8, (height, width), generator=seeded(seed))
    assert found.shape == (8, 1, height, width)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    area = found.mean(dim=(1, 2, 3))
    assert (area > 0.05).all()
    box = (SIDE[1] + 1 / height) * (SIDE[1] + 1 / width)  # one row and one column by rounding
    sampled = found[..., ::4, ::4].flatten(1)  # a blob's area is set on these pixels
    blob = BLOB[1] + 1 / sampled.shape[1]
    assert ((area <= box) | (sampled.mean(dim=1) <= blob)).all()


def test_wrong_pixels_come_from_no_image_in_target():
    """Six photographs, each of one colour: a mixture's pixels and its target's say where they came from."""
    photographs = torch.arange(1.0, 65).view(-1, 1, 1, 1).expand(-1, 3, 20, 30)
    partners = photographs.roll(1, 0), photographs.roll(2, 0)
    pairs = mixed(photographs, *partners, generator=seeded(3))
    seen = set()
    for x, target, wrong, known in zip(
        pairs.x.round(), pairs.target.round(), pairs.wrong, pairs.known, strict=True
    ):
        shown = set(target.unique().tolist())
        of_target = torch.isin(x[0], torch.tensor(sorted(shown)))
        if known:
            assert torch.equal(of_target, wrong == 0)
        else:
            assert of_target.any()
            assert wrong.max() == 0
        seen.add((len(x.unique()), len(shown), bool(known), bool(of_target.any())))
    assert len(seen) >= 6, f"of {len(KINDS)} kinds"


def test_pairs_are_a_function_of_the_generator():
    photographs = torch.rand(9, 3, 16, 16, generator=seeded())
    partners = photographs.roll(1, 0), photographs.roll(2, 0)
    one, same, other = (mixed(photographs, *partners, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.target, same.target)
    assert not torch.equal(one.x, other.x)


def test_likeness_is_judged_on_the_rows_that_count():
    right = torch.zeros(2, 8, 8)
    right[:, :4] = 1
    good = (40 * right[:, None] - 20)[:, :, ::2, ::2]
    rows = torch.tensor([True, False])
    both = torch.cat([good[:1], -good[1:]])
    assert likeness_loss([both], right, rows) < 1e-3
    assert likeness_loss([both], right, ~rows) > 1
    assert likeness_loss([both], right, rows & ~rows) == 0


def test_region_worth_is_the_gain_per_area():
    """Embedding: the two colours' sums.  Showing the left half takes the distance from 1/2 to 0."""
    x = torch.zeros(1, 3, 1, 2)
    x[0, 0, 0, 0] = x[0, 1, 0, 1] = 1
    left = torch.tensor([[[1.0, 0.0]]])
    fill = torch.zeros_like(x)
    fill[:, 2] = 1
    batch = Batch(x, torch.tensor([[1.0, 0, 0]]), left, fill, torch.zeros(3), seeded())

    def embed(images):
        return images[..., 0].sum(2)  # of the left pixel alone

    assert region_worth("sparse", embed, batch, left) == pytest.approx(4 * 0.5 / 0.5, rel=1e-4)
