"""The fill ρ that replaces masked-out pixels, in the encoder's normalised space.

x̃ = m · x + (1 − m) · ρ
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from runtime.errors import InputError


def occlude(x: Tensor, mask: Tensor, fill: Tensor) -> Tensor:
    """Keep x where the mask is 1, show ρ where it is 0: x, ρ (N, 3, H, W); mask (N, H, W) in [0, 1]."""
    mask = mask.unsqueeze(1)
    return mask * x + (1 - mask) * fill


def make_fill(kind: str, x: Tensor, *, generator: torch.Generator) -> Tensor:
    """ρ for normalised images x (N, 3, H, W).

    `zero` is the mean colour of the encoder's training data; `noise` is N(0, 1), the spread that
    normalised images have (not pixel-space statistics, the mistake of earlier code); `blur` is the
    image itself through a Gaussian of sigma 5 pixels at 224 (scaled with the size), reflected at the
    border; `mixed` is one of these three, drawn for each image.

    Use a generator on x's device, so that the numbers are not copied.

    Raises:
        InputError: no such fill.
    """
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "noise":
        return torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    if kind == "blur":
        return _blur(x, sigma=5 * min(x.shape[-2:]) / 224)
    if kind == "mixed":
        drawn = torch.randint(3, (len(x), 1, 1, 1), generator=generator, device=generator.device).to(x.device)
        fills = [make_fill(k, x, generator=generator) for k in ("zero", "noise", "blur")]
        return fills[0].where(drawn == 0, fills[1].where(drawn == 1, fills[2]))
    raise InputError(f"fill {kind}", expected="zero, noise, blur or mixed", cure="see nemu train --help")


def _blur(x: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur as two matrix products in float32; a depthwise convolution is far slower on a CPU."""
    height, width = (_blur_matrix(side, sigma=sigma).to(x.device) for side in x.shape[-2:])
    with torch.autocast(x.device.type, enabled=False):
        return height.T @ (x.float() @ width)


@lru_cache(maxsize=8)
def _blur_matrix(size: int, *, sigma: float) -> Tensor:
    """(size, size), float32: a row of pixels times this is the row through the Gaussian."""
    radius = max(1, math.ceil(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    impulses = nn.functional.pad(torch.eye(size), (radius, radius), mode="reflect")
    return nn.functional.conv1d(impulses[:, None], (kernel / kernel.sum())[None, None])[:, 0]
