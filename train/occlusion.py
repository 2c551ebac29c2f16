"""What a masked-out pixel is replaced with: ρ, in the encoder's normalised space.

x̃ = m · x + (1 − m) · ρ
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from runtime.errors import InputError


def occlude(x: Tensor, mask: Tensor, fill: Tensor) -> Tensor:
    """Keep x where the mask is 1, show ρ where it is 0: x, ρ (N, 3, H, W); mask (N, H, W) in [0, 1]."""
    mask = mask.unsqueeze(1)
    return mask * x + (1 - mask) * fill


def make_fill(kind: str, x: Tensor, *, generator: torch.Generator) -> Tensor:
    """ρ for a batch of normalised images x (N, 3, H, W).

    `zero` is the mean colour of the encoder's training data; `noise` is N(0, 1), the spread that
    normalised images have (not pixel-space statistics, the mistake of earlier code); `blur` is the
    image itself through a Gaussian of sigma 5 pixels at 224 (scaled with the size), reflected at the
    border; `mixed` is one of these three, drawn for each image.

    Raises:
        InputError: no such fill.
    """
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "noise":
        return torch.randn(x.shape, generator=generator).to(x)
    if kind == "blur":
        return _blur(x, sigma=5 * min(x.shape[-2:]) / 224)
    if kind == "mixed":
        drawn = torch.randint(3, (len(x), 1, 1, 1), generator=generator).to(x.device)
        fills = [make_fill(k, x, generator=generator) for k in ("zero", "noise", "blur")]
        return fills[0].where(drawn == 0, fills[1].where(drawn == 1, fills[2]))
    raise InputError(f"fill {kind}", expected="zero, noise, blur or mixed", cure="see python -m train --help")


def _blur(x: Tensor, *, sigma: float) -> Tensor:
    """In float32: on a CPU, half-precision depthwise convolution is hundreds of times slower."""
    x = x.float().contiguous()
    radius = max(1, math.ceil(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1, 1, 1)  # (3, 1, 1, 2r+1)
    x = nn.functional.pad(x, (radius, radius, radius, radius), mode="reflect")
    with torch.autocast(x.device.type, enabled=False):
        x = nn.functional.conv2d(x, kernel, groups=x.shape[1])
        return nn.functional.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])
