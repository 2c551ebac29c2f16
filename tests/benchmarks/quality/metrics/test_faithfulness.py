"""A toy encoder whose embedding is the pixels of a known region, so that every curve is known."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.metrics.faithfulness import (
    centred_cosine,
    cosine_kept,
    held_out_fill,
    insertion_deletion,
)
from runtime.errors import InputError
from train.occlusion import make_fill

H, W = 8, 8
REGION = torch.zeros(H, W, dtype=torch.bool)
REGION[2:6, 2:6] = True  # 16 of 64 pixels
ZERO = torch.zeros(3, H, W)
ORIGIN = torch.zeros(16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def embed(x):
    """The red pixels of the region: (N, 3, H, W) → (N, 16)."""
    return x[:, 0, REGION]


def areas(map, x=None, fill=ZERO, *, centre=ORIGIN, embed=embed, **options):
    options.setdefault("generator", generator())
    x = torch.ones(3, H, W) if x is None else x
    return insertion_deletion(embed, x, map, fill, centre=centre, **options)


def test_the_true_region_has_the_known_areas():
    """j of the 16 pixels shown: the cosine is √(j/16).  All are shown at step 8 of 32; then it stays 1."""
    j = torch.arange(33).mul(2).clamp(max=16)
    insertion, deletion = areas(REGION.float(), steps=32)
    assert insertion == pytest.approx(torch.trapezoid((j / 16).sqrt(), dx=1 / 32).item(), abs=1e-6)
    assert deletion == pytest.approx(torch.trapezoid((1 - j / 16).sqrt(), dx=1 / 32).item(), abs=1e-6)


def test_truth_beats_random_which_beats_complement():
    noise = torch.rand(H, W, generator=generator(1))
    truth, chance, worst = (areas(m) for m in (REGION.float(), noise, 1 - REGION.float()))
    assert truth[0] > chance[0] + 0.1 > worst[0] + 0.2
    assert truth[1] < chance[1] - 0.1 < worst[1] - 0.2


def test_the_truth_keeps_everything_at_its_own_area():
    """A mask at 0.5 shows nothing, one above it all that it covers."""
    x = torch.randn(3, 3, H, W, generator=generator())
    masks = torch.stack([0.6 * REGION, 1 - 0.6 * REGION, torch.full((H, W), 0.5)])
    cosine, area = cosine_kept(embed, x, masks, torch.zeros_like(x), centre=ORIGIN)
    torch.testing.assert_close(cosine, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(area, torch.tensor([0.25, 0.75, 0.0]))


def test_cosines_are_not_clipped():
    """With the negative as fill, hiding everything turns the embedding round."""
    x = torch.ones(1, 3, H, W)
    assert cosine_kept(embed, x, torch.zeros(1, H, W), -x, centre=ORIGIN)[0].item() == pytest.approx(-1)
    insertion, deletion = areas(REGION.float(), fill=-x[0], steps=4)  # -1 → 1 in one step, and back
    assert insertion == pytest.approx(0.75)
    assert deletion == pytest.approx(-0.75)


def test_common_part_of_embeddings_is_removed():
    shared = torch.full((16,), 100.0)
    plain, centred = (
        areas(REGION.float()),
        areas(REGION.float(), centre=shared, embed=lambda x: embed(x) + shared),
    )
    assert centred == pytest.approx(plain, abs=1e-4)
    assert areas(REGION.float(), embed=lambda x: embed(x) + shared)[1] > 0.99  # without: all look alike


def test_centred_cosine_is_per_row():
    u, v = torch.tensor([[2.0, 1], [1, 2], [3, 1]]), torch.tensor([[3.0, 1], [3, 1], [-7, 1]])
    expected = torch.tensor([1.0, 0, -1])
    torch.testing.assert_close(centred_cosine(u, v, centre=torch.ones(2)), expected)
    torch.testing.assert_close(centred_cosine(u.half(), v.half(), centre=torch.ones(2)), expected)


def test_ties_are_ordered_by_the_generator():
    corner = torch.zeros(H, W)  # below: a constant map, whose top-left pixels must not come first
    first = areas(corner, generator=generator(0))
    assert areas(corner, generator=generator(0)) == first
    many = torch.tensor([areas(corner, steps=8, generator=generator(s))[0] for s in range(200)])
    random_maps = torch.tensor(
        [areas(torch.rand(H, W, generator=generator(s)), steps=8)[0] for s in range(1000, 1200)]
    )
    assert many.std() > 0
    error = (many.var() / 200 + random_maps.var() / 200).sqrt()
    assert abs(many.mean() - random_maps.mean()) < 4 * error


def test_signed_maps_and_increasing_transforms():
    a = torch.randn(H, W, generator=generator(3))
    assert areas(a) == areas(a.exp())


def test_steps_that_do_not_divide_the_pixels():
    """Points lie where the counts, rounded, lie: a straight curve keeps its area."""

    def share(x):  # its cosine to (1, 0) is the share of pixels shown
        t = x.mean((1, 2, 3))
        return torch.stack([t, (1 - t**2).clamp(min=0).sqrt()], dim=1)

    for steps in (1, 5, 7, 32, 64):
        insertion, deletion = areas(REGION.float(), centre=torch.zeros(2), embed=share, steps=steps)
        assert (insertion, deletion) == pytest.approx((0.5, 0.5), abs=1e-5)


def test_batched_passes_have_no_gradients():
    sizes = []

    def spy(x):
        assert not torch.is_grad_enabled()
        sizes.append(len(x))
        return embed(x)

    a = torch.rand(H, W, generator=generator(), requires_grad=True)
    assert areas(a, embed=spy, batch_size=10) == pytest.approx(areas(a))
    assert sizes == [1, 10, 10, 10, 3, 10, 10, 10, 3]


def test_a_map_without_an_order_is_refused():
    with pytest.raises(InputError, match="not finite"):
        areas(torch.full((H, W), torch.nan))


def test_fills_are_of_each_image():
    x = torch.randn(64, 3, H, W, generator=generator())
    photographs = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, H, W)
    mean, fill, again = (
        held_out_fill(kind, x, photographs=photographs, generator=generator())
        for kind in ("mean", "photograph", "photograph")
    )
    assert mean.shape == fill.shape == x.shape
    torch.testing.assert_close(mean[1, 2], x[1, 2].mean().expand(H, W))
    assert torch.equal(fill, again)
    assert set(fill[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_held_out_fills_are_not_trained_on():
    x = torch.zeros(1, 3, H, W)
    for trained, held_out in (("zero", "photograph"), ("noise", "mean"), ("blur", "mean")):
        with pytest.raises(InputError, match="photograph or mean"):
            held_out_fill(trained, x, photographs=x, generator=generator())
        with pytest.raises(InputError):
            make_fill(held_out, x, generator=generator())
    with pytest.raises(InputError, match="images' size"):
        held_out_fill("photograph", x, photographs=x[..., :4], generator=generator())
