"""The equations, on toys with known answers; and the mistakes of earlier code, each shown absent."""

from __future__ import annotations

import pytest
import torch

from runtime.errors import InputError
from train.objective import check_collapse, contrastive, cosine_distance, plain
from train.occlusion import make_fill, occlude


def colour_sum(x):
    """A toy encoder: the sum of each colour over the image, (N, 3, H, W) → (N, 3)."""
    return x.sum((2, 3))


def red_and_green():
    """One image, two pixels: red left, green right; its embedding is (1, 1, 0)."""
    x = torch.zeros(1, 3, 1, 2)
    x[0, 0, 0, 0] = x[0, 1, 0, 1] = 1
    return x


LEFT = torch.tensor([[[1.0, 0.0]]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_cosine_distance_is_per_row_over_the_channels():
    u = torch.tensor([[1.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    v = torch.tensor([[5.0, 0, 0], [0, 1, 0], [-1, 0, 0]])
    torch.testing.assert_close(cosine_distance(u, v), torch.tensor([0.0, 0.5, 1.0]))


def test_plain_on_a_known_mask():
    x = red_and_green()
    terms = plain(colour_sum, x, colour_sum(x), LEFT, torch.zeros_like(x), area_weight=0.5)
    distance = (1 - 0.5**0.5) / 2  # cos((1,1,0), (1,0,0)) = 1/sqrt(2)
    assert terms.distance.item() == pytest.approx(distance)
    assert terms.area.item() == pytest.approx(0.5)
    assert terms.loss.item() == pytest.approx(4 * distance + 0.5 * 0.5)


def test_contrastive_on_a_known_mask():
    x = red_and_green()
    terms = contrastive(colour_sum, x, colour_sum(x), LEFT, torch.zeros_like(x), area_weight=0.5)
    near, apart = (1 - 0.5**0.5) / 2, 0.5  # complement (0,1,0) is orthogonal to what is kept (1,0,0)
    assert terms.loss.item() == pytest.approx((4 - apart) * near + 0.25)


@pytest.mark.parametrize("objective", [plain, contrastive])
def test_losing_the_embedding_costs(objective):
    """Version 2 of the authors' contrastive form has the wrong sign: there the empty mask is optimal."""
    x = red_and_green()
    empty = torch.zeros(1, 1, 2)
    fill = torch.zeros_like(x)
    fill[:, 2] = 1  # blue: orthogonal to the image
    cost = [
        objective(colour_sum, x, colour_sum(x), m, fill, area_weight=0.5).loss for m in (empty, 1 - empty)
    ]
    assert cost[0] > cost[1]


@pytest.mark.parametrize("objective", [plain, contrastive])
def test_images_of_a_batch_do_not_mix(objective):
    torch.manual_seed(0)
    x, mask, fill = torch.randn(4, 3, 5, 5), torch.rand(4, 5, 5), torch.randn(4, 3, 5, 5)
    whole = objective(colour_sum, x, colour_sum(x), mask, fill, area_weight=1.0).loss
    rows = [
        objective(
            colour_sum,
            x[i : i + 1],
            colour_sum(x[i : i + 1]),
            mask[i : i + 1],
            fill[i : i + 1],
            area_weight=1.0,
        )
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack([r.loss for r in rows]).mean())


def test_collapse_is_announced_with_the_numbers():
    x = red_and_green()
    fill = torch.zeros_like(x)
    fill[0, 0] = 1.0  # f(fill) = (2, 0, 0): cos = 1/sqrt(2), the empty mask costs 4 * 0.1464
    check = check_collapse(colour_sum, x, colour_sum(x), fill, area_weight=1.0)
    assert check.empty_cost == pytest.approx(0.5858, abs=1e-4)
    assert check.break_even_area == pytest.approx(0.5858, abs=1e-4)
    assert "59%" in str(check.warning())
    assert check_collapse(colour_sum, x, colour_sum(x), fill, area_weight=0.5).warning() is None


def test_authors_threshold_is_a_cosine_of_three_quarters():
    """With area weight 1/2 the empty mask wins where cos(f(x), f(ρ)) > 0.75."""
    for cosine, collapses in ((0.74, False), (0.76, True)):
        embedding = torch.tensor([[1.0, 0.0]])
        of_fill = torch.tensor([[cosine, (1 - cosine**2) ** 0.5]])
        check = check_collapse(
            lambda _, z=of_fill: z, red_and_green(), embedding, red_and_green(), area_weight=0.5
        )
        assert (check.warning() is not None) is collapses


def test_occlusion_keeps_where_the_mask_is_one():
    x, fill = torch.full((1, 3, 1, 2), 2.0), torch.full((1, 3, 1, 2), -1.0)
    shown = occlude(x, torch.tensor([[[1.0, 0.25]]]), fill)
    torch.testing.assert_close(shown[0, 0, 0], torch.tensor([2.0, 0.25 * 2 - 0.75]))


def test_noise_has_the_spread_of_normalised_images():
    """N(0, 1) in normalised space, not ImageNet's pixel statistics (mean 0.45, s.d. 0.23)."""
    noise = make_fill("noise", torch.zeros(8, 3, 64, 64), generator=generator())
    assert abs(noise.mean().item()) < 0.01
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(noise, make_fill("noise", torch.zeros(8, 3, 64, 64), generator=generator()))
    assert not torch.equal(noise, make_fill("noise", torch.zeros(8, 3, 64, 64), generator=generator(1)))


def test_blur_is_a_gaussian():
    x = torch.zeros(1, 3, 224, 224)
    x[0, :, 112, 112] = 1
    blurred = make_fill("blur", x, generator=generator())[0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-4)
    ratio = blurred[112, 117] / blurred[112, 112]  # one sigma away; a box would give 1
    assert ratio.item() == pytest.approx(0.6065, abs=1e-3)
    constant = torch.full((1, 3, 32, 32), 0.7)
    torch.testing.assert_close(make_fill("blur", constant, generator=generator()), constant)  # no dark border


def test_unknown_fill_is_refused():
    with pytest.raises(InputError, match="zero, noise or blur"):
        make_fill("checkerboard", torch.zeros(1, 3, 4, 4), generator=generator())
