"""What is drawn for a row does not depend on how many processes share its batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from train.objective import Batch, ranking
from train.occlusion import make_fill
from train.share import WHOLE, Share

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def seeded():
    return torch.Generator().manual_seed(1)


def test_alone_the_share_is_the_whole():
    assert Share.here() == WHOLE
    expected = torch.randn(4, 2, generator=seeded())
    assert torch.equal(WHOLE.draw(torch.randn, (4, 2), generator=seeded()), expected)


@pytest.mark.parametrize("source", [torch.rand, torch.randn, partial(torch.randint, 1, 1000)])
@pytest.mark.parametrize("world", [2, 4])
def test_shares_are_slices_of_what_one_process_draws(source, world):
    whole = WHOLE.draw(source, (8, 5), generator=seeded())
    shares = [Share(rank, world).draw(source, (8 // world, 5), generator=seeded()) for rank in range(world)]
    assert torch.equal(torch.cat(shares), whole)
    assert not torch.equal(shares[0], shares[1])


@pytest.mark.parametrize("kind", ["zero", "noise", "blur", "mixed"])
def test_fills_are_those_of_one_process(kind):
    whole = make_fill(kind, X, generator=seeded())
    shares = [make_fill(kind, X[2 * r :][:2], generator=seeded(), share=Share(r, 2)) for r in range(2)]
    assert torch.equal(torch.cat(shares), whole)


def test_ranking_draws_what_one_process_draws():
    """Its loss is the mean of the shares' losses, which other noise or other levels k would change."""

    def loss(rows, share):
        x, logits = X[rows], X[rows, 0]
        batch = Batch(x, x.mean((2, 3)), logits, 0 * x, torch.zeros(3), seeded(), share)
        return ranking(lambda x: x.mean((2, 3)), batch, area_weight=0.0).loss

    shares = [loss(slice(2 * r, 2 * r + 2), Share(r, 2)) for r in range(2)]
    torch.testing.assert_close(torch.stack(shares).mean(), loss(slice(4), WHOLE))
    assert not torch.isclose(shares[1], loss(slice(2, 4), WHOLE))
