"""Every competing method explains the embedding it is given, and leaves the encoder as it was."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import timm
import torch
from captum.attr import GradientShap, IntegratedGradients
from relax_xai.masking_functions import mask_generator
from relax_xai.relax import RELAX
from torch import nn

from benchmarks.quality import baselines
from benchmarks.quality.baselines import BASELINES
from runtime.package.records import InputRecord
from train.encoder.frozen import FrozenEncoder, weights_fingerprint
from train.encoder.timm_encoder import TimmFeatures

H, W = 32, 48
NO_CLAIM = ("random", "centre")
RELAX_NAMES = ("relax", "u_relax")


class Quadrant(nn.Module):
    """Sees the top left quadrant only: rectified features of it, pooled to a grid, beside a constant."""

    def __init__(self, *, rectified=True):
        super().__init__()
        self.rectified = rectified
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.log = []

    def forward(self, x):
        self.log.append(len(x))
        seen = torch.zeros_like(x[:1, :1])
        seen[..., : x.shape[2] // 2, : x.shape[3] // 2] = 1
        features = self.body(x * seen)
        features = (features.relu() if self.rectified else features) * seen[..., ::4, ::4]
        pooled = nn.functional.adaptive_avg_pool2d(features, 4).flatten(1)
        return torch.cat((pooled, torch.full_like(pooled[:, :1], 0.5)), 1), [features]


def frozen(model, *, height=H, width=W, **options):
    record = InputRecord(
        name="image", height=height, width=width, mean=(0.5,) * 3, std=(0.25,) * 3, resize="squash",
        crop_pct=1.0, interpolation="bilinear",
    )  # fmt: skip
    return FrozenEncoder(model, id="own", embedding="own", input=record, **options)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return frozen(Quadrant())


@pytest.fixture
def x():
    return torch.randn(3, 3, H, W, generator=torch.Generator().manual_seed(1))


def explain(name, encoder, x, *, seed=0, batches=3):
    options = {"batches": batches} if name in RELAX_NAMES else {}
    return BASELINES[name].explain(encoder, x, seed=seed, **options)


@pytest.mark.parametrize("name", BASELINES)
def test_batch_equals_its_rows_and_repeats(name, encoder, x):
    maps = explain(name, encoder, x)
    assert maps.shape == (3, H, W)
    assert maps.dtype == torch.float32
    assert maps.device.type == "cpu"
    assert maps.isfinite().all()
    assert not maps.requires_grad
    baselines._runs.clear()
    torch.testing.assert_close(explain(name, encoder, x), maps, rtol=0, atol=0)
    baselines._runs.clear()
    rows = torch.cat([explain(name, encoder, row[None]) for row in x.flip(0)]).flip(0)
    torch.testing.assert_close(rows, maps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_encoder_and_generators_are_left_as_they_were(name, encoder, x):
    weights, pixels = weights_fingerprint(encoder), x.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    explain(name, encoder, x)
    assert weights_fingerprint(encoder) == weights
    assert not any(module.training for module in encoder.modules())
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in encoder.modules())
    assert torch.equal(x, pixels)
    assert x.grad is None
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("name", BASELINES)
def test_the_quadrant_that_the_encoder_sees_is_found(name, l2_normalize, x):
    torch.manual_seed(0)
    encoder = frozen(Quadrant(), l2_normalize=l2_normalize)
    maps = explain(name, encoder, x, batches=10)
    top = maps.flatten(1).argsort(dim=1, descending=True)[:, : H * W // 4]
    inside = ((top // W < H // 2) & (top % W < W // 2)).float().mean(1)  # 0.25 by chance
    if name in NO_CLAIM:
        assert (inside < 0.4).all(), inside
    else:
        assert (inside > 0.6).all(), inside


@pytest.mark.parametrize("name", ["integrated_gradients", "gradient_shap", "saliency"])
def test_gradient_is_of_what_the_encoder_sees(name, encoder, x):
    """It is zero elsewhere, and taken before the embedding is normalised."""
    maps = explain(name, encoder, x)
    unit = frozen(encoder.model, l2_normalize=True)
    torch.testing.assert_close(explain(name, unit, x), maps)
    assert maps[:, : H // 2, : W // 2].sum() > 0
    maps[:, : H // 2, : W // 2] = 0
    assert not maps.any()


def test_lafam_centres_what_was_not_rectified(x):
    torch.manual_seed(0)
    encoder = frozen(Quadrant(rectified=False))
    features = encoder(x)[1][-1]
    expected = (features - features.mean((2, 3), keepdim=True)).relu().mean(1)
    expected = expected.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(explain("lafam", encoder, x), expected)


@pytest.mark.parametrize("name", BASELINES)
def test_a_transformer_is_explained_too(name):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=0)
    encoder = frozen(TimmFeatures(model, embedding="pooled", taps=None), width=32)
    maps = explain(name, encoder, torch.randn(2, 3, 32, 32), batches=1)
    assert maps.shape == (2, 32, 32)
    assert (maps.std((1, 2)) > 0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_passes_are_what_the_encoder_is_given(name, encoder, x):
    encoder.model.log.clear()
    BASELINES[name].explain(encoder, x[:1], seed=0)
    assert sum(encoder.model.log) == BASELINES[name].passes(H, W)


def test_relax_maps_share_a_run_per_weights(encoder, x):
    log = encoder.model.log
    importance = explain("relax", encoder, x)
    log.clear()
    certain = explain("u_relax", encoder, x)
    assert not log
    assert torch.equal(certain[certain != 0], importance[certain != 0])
    assert 0.4 < (certain == 0).float().mean() < 0.6
    explain("u_relax", encoder, x, seed=1)
    assert len(log) == 3 * 4
    other = frozen(Quadrant(rectified=False))
    other.load_state_dict(encoder.state_dict())
    assert not torch.equal(explain("relax", other, x), importance), "another encoder with equal weights"
    with torch.no_grad():
        encoder.model.body[0].weight.neg_()
    assert not torch.equal(explain("relax", encoder, x), importance)


def test_memory_of_relax_is_bounded(encoder, x, monkeypatch):
    monkeypatch.setattr(baselines, "RUNS_KEPT", 2)
    explain("relax", encoder, x, batches=1)
    assert len(baselines._runs) == 2


@pytest.mark.parametrize("name", ["relax", "u_relax", "gradient_shap", "random"])
def test_seed_and_image_decide_the_random_numbers(name, encoder, x):
    first = explain(name, encoder, x)
    assert not torch.equal(explain(name, encoder, x, seed=1), first)
    assert not torch.equal(first[0], first[1])


def test_settings_are_the_packages_defaults():
    def defaults(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    relax, masks = defaults(RELAX.__init__), defaults(mask_generator)
    assert (relax["batch_size"], relax["num_batches"]) == (baselines.ROWS, baselines.RELAX_BATCHES)
    settings = BASELINES["relax"].settings
    assert settings["masks"] == relax["batch_size"] * relax["num_batches"]
    assert settings["cells"] == masks["num_cells"]
    assert settings["keep_probability"] == masks["probablity_of_drop"]
    ig, shap = defaults(IntegratedGradients.attribute), defaults(GradientShap.attribute)
    assert (ig["n_steps"], ig["method"]) == tuple(
        BASELINES["integrated_gradients"].settings[k] for k in ("steps", "method")
    )
    assert (shap["n_samples"], shap["stdevs"]) == tuple(
        BASELINES["gradient_shap"].settings[k] for k in ("samples", "stdevs")
    )
