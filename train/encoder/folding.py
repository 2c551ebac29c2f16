"""The frozen encoder as training runs it: each BatchNorm after a convolution is folded into it.

A frozen BatchNorm is a scale and a shift of each channel: BN(W∗x + b) = s·(W∗x + b − μ) + β with
s = γ / √(σ² + ε), which is the convolution (s·W)∗x + s·(b − μ) + β.  As a separate module it reads and
writes the whole feature map in every forward and backward pass.  The copy gives the same embedding within
float32's rounding, which is checked; the exported encoder is not folded.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame  # type: ignore[attr-defined]
from torch import Tensor, nn

from train.encoder.frozen import FrozenEncoder

TOLERANCE = 1e-3
"""Largest error of an output relative to its largest value.  Rounding alone gives about 1e-6; a convolution
whose result is also used elsewhere has an error as large as the effect of its BatchNorm."""


def folded(encoder: FrozenEncoder) -> FrozenEncoder | None:
    """A channels-last copy without the BatchNorms that can be folded; None if its outputs would differ.

    Pairs are found in one pass: a convolution, called once, whose output tensor is a BatchNorm's input.
    Other subclasses, and modules with hooks, are not folded.
    """
    generator = torch.Generator().manual_seed(0)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    x = torch.randn(2, 3, encoder.input.height, encoder.input.width, generator=generator).to(device)
    result = copy.deepcopy(encoder)
    with torch.no_grad():
        expected = encoder(x)
        for conv, norm in _pairs(result, x):
            _fold(result, conv, norm)
        result.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        same = _same(result(x), expected)
    return result if same else None


def _pairs(encoder: FrozenEncoder, x: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and BatchNorms that follow each other directly in a pass on x."""
    came_from: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept so that its id is not reused
    calls: list[str] = []
    pairs: list[tuple[str, str]] = []
    handles = []

    def after_conv(name: str, output: Tensor) -> None:
        calls.append(name)
        came_from[id(output)] = (name, output)

    def before_norm(name: str, value: Tensor) -> None:
        calls.append(name)
        if id(value) in came_from:
            pairs.append((came_from[id(value)][0], name))

    for name, module in encoder.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) in (nn.Conv2d, Conv2dSame):
            handles.append(module.register_forward_hook(lambda _m, _i, o, name=name: after_conv(name, o)))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(lambda _m, i, name=name: before_norm(name, i[0])))
    try:
        encoder(x)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)]


def _fold(encoder: FrozenEncoder, conv_name: str, norm_name: str) -> None:
    """Put the BatchNorm's scale and shift into the convolution, in float64; keep its activation."""
    conv: Any = encoder.get_submodule(conv_name)
    norm: Any = encoder.get_submodule(norm_name)
    weight = conv.weight.double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    conv.weight = _frozen(weight * scale.view(-1, 1, 1, 1), like=conv.weight)
    conv.bias = _frozen(shift, like=conv.weight)
    after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    parent, _, name = norm_name.rpartition(".")
    setattr(encoder.get_submodule(parent), name, after.eval())


def _frozen(value: Tensor, *, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)


def _same(outputs: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> bool:
    pairs = zip((outputs[0], *outputs[1]), (expected[0], *expected[1]), strict=True)
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in pairs)
