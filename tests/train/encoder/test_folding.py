"""The folded encoder is the same function with fewer modules."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from runtime.package.records import InputRecord
from train.config import EncoderConfig
from train.encoder.folding import folded
from train.encoder.frozen import FrozenEncoder
from train.encoder.zoo import load_encoder

INPUT = InputRecord(
    name="image", height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3,
    resize="squash", crop_pct=1.0, interpolation="bilinear",
)  # fmt: skip


def unsettle(model):
    """Statistics and scales that a BatchNorm can only have from training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.2),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    return model


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "left"), [("test_resnet", 0), ("test_efficientnet", 0), ("test_convnext", 0), ("test_vit", 0)]
)
def test_embedding_pyramid_and_gradient_are_the_encoders_own(tmp_path, name, left):
    torch.manual_seed(0)
    save_file(unsettle(timm.create_model(name)).state_dict(), tmp_path / "w.safetensors")
    config = EncoderConfig(encoder=f"timm/{name}", weights=str(tmp_path / "w.safetensors"))
    encoder = load_encoder(config)
    modules, weights = len(list(encoder.modules())), {k: v.clone() for k, v in encoder.state_dict().items()}
    result = folded(encoder)
    assert len(norms(result)) == left
    x = torch.randn(2, 3, 160, 160)
    outputs, gradients = [], []
    for one in (encoder, result):
        leaf = x.clone().requires_grad_()
        embedding, pyramid = one(leaf)
        (embedding @ torch.linspace(-1, 1, embedding.shape[1])).sum().backward()
        outputs.append((embedding, *pyramid))
        gradients.append(leaf.grad)
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * a.detach().abs().max().item())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[0].abs().max()))
    assert len(list(encoder.modules())) == modules
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())
    assert not any(p.requires_grad for p in result.parameters())
    assert not any(m.training for m in result.modules())


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x.mean((2, 3)), [x]


class UsedTwice(Small):
    """The convolution's own result is wanted too."""

    def forward(self, x):
        raw = self.conv(x)
        return self.norm(raw).mean((2, 3)), [raw]


class CalledTwice(Small):
    def forward(self, x):
        x = self.norm(self.conv(x))
        x = x + self.norm(x)
        return x.mean((2, 3)), [x]


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


class OwnConvolution(Small):
    def __init__(self):
        super().__init__()
        self.conv = Standardised(3, 4, 3)


def small(model):
    torch.manual_seed(0)
    return FrozenEncoder(unsettle(model()), id="own", embedding="own", input=INPUT)


def test_a_bias_is_folded_too():
    encoder = small(Small)
    result = folded(encoder)
    x = torch.randn(2, 3, 16, 16)
    assert not norms(result)
    torch.testing.assert_close(result(x)[0], encoder(x)[0])


def test_a_result_that_is_used_elsewhere_is_noticed():
    assert folded(small(UsedTwice)) is None


@pytest.mark.parametrize("model", [CalledTwice, OwnConvolution])
def test_unusual_pairs_are_not_folded(model):
    encoder = small(model)
    result = folded(encoder)
    x = torch.randn(2, 3, 16, 16)
    assert len(norms(result)) == 1
    torch.testing.assert_close(result(x)[0], encoder(x)[0])


def test_a_convolution_with_a_hook_is_left_alone():
    encoder = small(Small)
    encoder.model.conv.register_forward_hook(lambda _m, _i, output: 2 * output)
    x = torch.randn(2, 3, 16, 16)
    result = folded(encoder)
    assert len(norms(result)) == 1
    torch.testing.assert_close(result(x)[0], encoder(x)[0])


def test_folding_leaves_no_hooks_and_draws_nothing():
    encoder = small(Small)
    before = torch.get_rng_state()
    result = folded(encoder)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in result.modules())
