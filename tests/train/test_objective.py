"""The equations, on toys with known answers; and the mistakes of earlier code, each shown absent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from train.objective import (
    OBJECTIVES,
    RANKS,
    Batch,
    constant_mask_cost,
    contrastive,
    cosine_distance,
    plain,
    ranking,
    sparse,
    top_k,
)
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
ORIGIN = torch.zeros(3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shown(x, mask, fill=None, *, embed=colour_sum, centre=ORIGIN):
    """A batch whose mask is (all but) exactly the given zeros and ones."""
    return Batch(
        x=x,
        embedding=embed(x),
        logits=100 * (2 * mask - 1),
        fill=torch.zeros_like(x) if fill is None else fill,
        centre=centre,
        generator=generator(),
    )


def test_cosine_distance_is_per_row_over_the_channels():
    u = torch.tensor([[1.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    v = torch.tensor([[5.0, 0, 0], [0, 1, 0], [-1, 0, 0]])
    torch.testing.assert_close(cosine_distance(u, v), torch.tensor([0.0, 0.5, 1.0]))


def test_a_centred_cosine_forgets_what_all_embeddings_share():
    """Around (10, 10) the vectors are (1, 0), (0, 1) and (-1, 0); around the origin all but parallel."""
    u, v, w = (torch.tensor([row]) for row in ([11.0, 10], [10.0, 11], [9.0, 10]))
    centre = torch.tensor([10.0, 10])
    assert cosine_distance(u, v, centre=centre).item() == pytest.approx(0.5)
    assert cosine_distance(u, w, centre=centre).item() == pytest.approx(1)
    assert cosine_distance(u, v).item() < 0.003


def test_plain_on_a_known_mask():
    terms = plain(colour_sum, shown(red_and_green(), LEFT), area_weight=0.5)
    distance = (1 - 0.5**0.5) / 2  # cos((1,1,0), (1,0,0)) = 1/sqrt(2)
    assert terms.distance.item() == pytest.approx(distance)
    assert terms.area.item() == pytest.approx(0.5)
    assert terms.loss.item() == pytest.approx(4 * distance + 0.5 * 0.5)


def test_sparse_charges_the_root_of_the_mask():
    x = red_and_green()
    grey = replace(shown(x, LEFT), logits=torch.full((1, 1, 2), 0.25).logit())
    terms = sparse(colour_sum, grey, area_weight=0.5)
    assert terms.distance.item() == pytest.approx(0, abs=1e-6), "grey on black keeps the direction"
    assert terms.area.item() == pytest.approx(0.25)
    assert terms.loss.item() == pytest.approx(0.5 * 0.5)
    assert sparse(colour_sum, shown(x, LEFT), area_weight=0.5).loss == pytest.approx(
        plain(colour_sum, shown(x, LEFT), area_weight=0.5).loss
    ), "a mask of zeros and ones costs its area"


def test_sparse_pushes_small_masks_harder_and_stays_finite():
    gradients = []
    for objective in (plain, sparse):
        logits = torch.tensor([[[-4.0, -200.0]]], requires_grad=True)
        batch = replace(shown(red_and_green(), LEFT), logits=logits)
        objective(lambda z: torch.ones(len(z), 3), batch, area_weight=1.0).loss.backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        gradients.append(logits.grad[0, 0, 0].item())
    assert gradients[1] > 3 * gradients[0] > 0


def test_contrastive_on_a_known_mask():
    terms = contrastive(colour_sum, shown(red_and_green(), LEFT), area_weight=0.5)
    near, apart = (1 - 0.5**0.5) / 2, 0.5  # complement (0,1,0) is orthogonal to what is kept (1,0,0)
    assert terms.loss.item() == pytest.approx((4 - apart) * near + 0.25)


def test_class_on_a_known_mask():
    """Hiding the green pixel moves the logits (1, 1.5, 0) to (1, 0, 0): class 1 falls to 1 / (e + 2)."""
    x = red_and_green() * torch.tensor([1, 1.5, 1]).view(1, 3, 1, 1)
    terms = OBJECTIVES["class"](colour_sum, shown(x, LEFT), area_weight=0.5)
    lost = 1 - 1 / (2.718281828 + 2)
    assert terms.distance.item() == pytest.approx(lost)
    assert terms.loss.item() == pytest.approx(2 * lost + 0.5 * 0.5)


@pytest.mark.parametrize("name", ["sparse", "plain", "contrastive"])
def test_the_centre_reaches_the_objective(name):
    """Around (0, 1, 0) the image is (1, 0, 0) and the kept red pixel (1, -1, 0)."""

    def around(centre):
        batch = shown(red_and_green(), LEFT, centre=torch.tensor(centre))
        return OBJECTIVES[name](colour_sum, batch, area_weight=0.5)

    assert around([0.0, 1, 0]).distance.item() == pytest.approx((1 - 0.5**0.5) / 2)
    assert around([0.0, 2, 0]).distance.item() == pytest.approx(
        (1 - 3 / 10**0.5) / 2
    )  # (1, -1, 0) to (1, -2, 0)


@pytest.mark.parametrize("objective", [sparse, plain, contrastive])
def test_losing_the_embedding_costs(objective):
    """Version 2 of the authors' contrastive form has the wrong sign: there the empty mask is optimal."""
    x = red_and_green()
    empty = torch.zeros(1, 1, 2)
    fill = torch.zeros_like(x)
    fill[:, 2] = 1  # blue: orthogonal to the image
    cost = [objective(colour_sum, shown(x, m, fill), area_weight=0.5).loss for m in (empty, 1 - empty)]
    assert cost[0] > cost[1]


def random_batch(n=4):
    torch.manual_seed(0)
    x, fill = torch.randn(2, n, 3, 5, 5)
    return Batch(
        x=x,
        embedding=colour_sum(x),
        logits=torch.randn(n, 5, 5),
        fill=fill,
        centre=torch.tensor([1.0, -2, 3]),
        generator=generator(),
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_images_of_a_batch_do_not_mix(name):
    """The gradient of a row's logits is the same whatever images, fills and masks the other rows hold.

    A cross-batch index, as in earlier code, scores every image on every other image's class.
    """

    def gradient(batch):
        logits = batch.logits.clone().requires_grad_()
        batch = replace(batch, logits=logits, generator=generator())
        OBJECTIVES[name](colour_sum, batch, area_weight=1.0).loss.backward()
        return logits.grad

    batch = random_batch()
    others = {k: v.clone() for k, v in vars(batch).items() if k in ("x", "fill", "logits", "embedding")}
    order = torch.tensor([0, 2, 3, 1])
    before = gradient(batch)
    shuffled = gradient(replace(batch, **{k: v[order] for k, v in others.items()}))
    torch.testing.assert_close(shuffled[0], before[0])
    others["x"][1:] *= -3
    others["embedding"][1:] = colour_sum(others["x"][1:])
    others["logits"][1:] += 1
    changed = gradient(replace(batch, **others))
    torch.testing.assert_close(changed[0], before[0])
    assert before[0].abs().max() > 0
    assert not torch.allclose(changed[1:], before[1:])


@pytest.mark.parametrize("name", ["sparse", "plain", "contrastive", "class"])
def test_a_batch_costs_the_mean_of_its_images(name):
    batch = replace(random_batch(), price=torch.rand(4, 5, 5))
    same = ("centre", "generator")
    rows = [Batch(**{k: v if k in same else v[i : i + 1] for k, v in vars(batch).items()}) for i in range(4)]
    whole, *each = (OBJECTIVES[name](colour_sum, b, area_weight=1.0).loss for b in (batch, *rows))
    torch.testing.assert_close(whole, torch.stack(each).mean())


@pytest.mark.parametrize("name", ["sparse", "plain", "contrastive"])
def test_a_pixel_costs_its_price(name):
    """Twice the price everywhere is twice the weight; a price of 0 makes a pixel free."""
    batch = random_batch()

    def size(price):
        priced = replace(batch, price=price, generator=generator())
        return OBJECTIVES[name](colour_sum, priced, area_weight=1.0).loss - plain_loss

    plain_loss = OBJECTIVES[name](colour_sum, replace(batch, generator=generator()), area_weight=0.0).loss
    one = torch.ones(len(batch.x), 1, 1)
    torch.testing.assert_close(size(2 * one), 2 * size(None))
    left = torch.zeros_like(batch.logits)
    left[:, :, : left.shape[2] // 2] = 1
    torch.testing.assert_close(size(left) + size(1 - left), size(None))
    assert size(0 * one).abs() < 1e-6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chance_comes_from_the_generator_alone(name):
    batch = random_batch()
    losses = []
    for state, seed in enumerate((0, 0, 1)):
        torch.manual_seed(state)  # the global state must not matter
        seeded = replace(batch, generator=generator(seed))
        losses.append(OBJECTIVES[name](colour_sum, seeded, area_weight=1.0).loss)
    assert torch.equal(losses[1], losses[0])
    assert torch.equal(losses[2], losses[0]) is (name != "ranking")


@pytest.mark.parametrize(
    ("name", "passes"), [("sparse", 1), ("plain", 1), ("contrastive", 2), ("class", 1), ("ranking", 6)]
)
def test_only_images_of_the_equation_are_embedded(name, passes):
    seen = []

    def counting(x):
        seen.append(len(x))
        return colour_sum(x)

    OBJECTIVES[name](counting, random_batch(), area_weight=1.0)
    assert sum(seen) == passes * 4


@settings(deadline=None)
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=3),
    k=st.integers(1, 6),
)
def test_top_k_is_exactly_k_ones_despite_ties(values, k):
    values = torch.tensor(values) * 0.37
    mask = top_k(values, torch.full((len(values), 1), k))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}  # exactly: 1 + s - s would not be
    assert mask.sum(1).tolist() == [k] * len(values)
    kept, left = (values.where(mask == one, worst) for one, worst in ((1, torch.inf), (0, -torch.inf)))
    assert (kept.amin(1) >= left.amax(1)).all()


def test_top_k_passes_sigmoid_and_kth_value_gradients():
    values = torch.tensor([[0.0, 2.0, -1.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 10.0, 100.0]])
    (top_k(values, torch.tensor([[2]])) * weights).sum().backward()
    slope = torch.sigmoid(torch.tensor([0.0, 2.0, -1.0])) * torch.sigmoid(-torch.tensor([0.0, 2.0, -1.0]))
    expected = weights[0] * slope
    expected[0] -= (weights[0] * slope).sum()  # the first is the second largest: it is the level itself
    torch.testing.assert_close(values.grad[0], expected)


def test_ranking_shows_one_level_from_each_sixth():
    shares, mixed = [], []

    def spy(z):  # images are 1, fills 0
        shares.append(z[:, 0].mean((1, 2)).view(-1, RANKS))
        mixed.append(((z != 0) & (z != 1)).any())
        return torch.ones(len(z), 2)

    x = torch.ones(5, 3, 8, 9)
    for seed in range(20):
        batch = Batch(x, torch.ones(5, 2), torch.randn(5, 8, 9), 0 * x, torch.zeros(2), generator(seed))
        ranking(spy, batch, area_weight=1.0)
    k = torch.cat(shares) * 72
    assert not any(mixed)
    for stratum in range(RANKS):
        assert k[:, stratum].min().item() == pytest.approx(12 * stratum + 1)
        assert k[:, stratum].max().item() == pytest.approx(12 * stratum + 12)


def test_ranking_puts_the_pixels_that_matter_on_top():
    """The embedding is three pixels of 36, red, green and blue; a few steps must rank those first."""
    seen = [3, 17, 30]

    def embed(z):
        return torch.stack([z.flatten(2)[:, c, p] for c, p in enumerate(seen)], dim=1)

    torch.manual_seed(0)
    x = torch.rand(8, 3, 6, 6) + 1
    logits = torch.zeros(1, 6, 6, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for step in range(60):
        fill = make_fill("noise", x, generator=generator(step))
        batch = Batch(x, embed(x), logits.expand(8, -1, -1), fill, ORIGIN, generator(step))
        optimiser.zero_grad()
        ranking(embed, batch, area_weight=1.0).loss.backward()
        optimiser.step()
    assert sorted(logits.flatten().topk(3).indices.tolist()) == seen


def test_ranking_ignores_the_level_of_the_logits():
    low, high = random_batch(), random_batch()
    high = replace(high, logits=high.logits + 8)
    assert ranking(colour_sum, low, area_weight=1.0).loss.item() == pytest.approx(
        ranking(colour_sum, high, area_weight=1.0).loss.item()
    )


def test_a_constant_mask_costs_what_arithmetic_says():
    x = red_and_green()
    fill = torch.zeros_like(x)
    fill[0, 0] = 1.0  # f(fill) = (2, 0, 0): cos = 1/sqrt(2), the empty mask costs 4 * 0.1464
    batch = shown(x, LEFT, fill)
    costs = {
        (value, weight): constant_mask_cost("sparse", colour_sum, batch, value=value, area_weight=weight).loss
        for value in (0, 1)
        for weight in (0.0, 0.7)
    }
    assert costs[0, 0.0] == costs[0, 0.7] == pytest.approx(0.5858, abs=1e-4)
    assert costs[1, 0.0] == pytest.approx(0, abs=1e-6)
    assert costs[1, 0.7] == pytest.approx(0.7)


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


def test_a_blur_is_not_computed_in_half_precision():
    x = torch.randn(2, 3, 64, 64, generator=generator())
    expected = make_fill("blur", x, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make_fill("blur", x, generator=generator()), expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_mixed_draws_one_fill_for_each_image(autocast):
    x = torch.randn(60, 3, 16, 16, generator=generator())
    blur = make_fill("blur", x, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        fill = make_fill("mixed", x, generator=generator())
    assert fill.dtype == torch.float32
    is_zero = (fill == 0).flatten(1).all(1)
    is_blur = (fill == blur).flatten(1).all(1)
    noise = fill[~is_zero & ~is_blur]
    assert (10 < is_zero.sum() < 30, 10 < is_blur.sum() < 30, 10 < len(noise) < 30) == (True, True, True)
    assert (noise.flatten(1).mean(1).abs() < 0.15).all()
    assert (noise.flatten(1).std(1) - 1).abs().max() < 0.15
    assert torch.equal(fill, make_fill("mixed", x, generator=generator()))
    assert not torch.equal(fill, make_fill("mixed", x, generator=generator(1)))


def test_unknown_fill_is_refused():
    with pytest.raises(InputError, match="zero, noise, blur or mixed"):
        make_fill("checkerboard", torch.zeros(1, 3, 4, 4), generator=generator())
