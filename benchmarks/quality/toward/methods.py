"""Other explanations of a pair: why is this image like that embedding?  Each on one image and K targets.

    METHODS[name].explain(encoder, x, targets, centre=μ, seed=0) -> Tensor

takes a normalised image float32 (3, H, W) and targets (K, D), and gives float32 (K, H, W) on the CPU, higher
= more like the target, signed.  What is explained is the centred cosine s(x) = cos(f(x) − μ, q − μ).  Where
pixels are hidden they become zero, the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality.baselines import GRADIENT_ROWS, IG_STEPS, ROWS, STRIDE, WINDOW, WINDOW_SIDE, scaled
from runtime.errors import InputError
from train.encoder.frozen import FrozenEncoder

Explain = Callable[..., Tensor]

MASKS, CELLS, KEEP = 1000, 8, 0.5
"""Number of random masks, cells a side, chance that a cell is kept."""
ENDS = 0.1
"""Share of the masks that are nearest to the target, and farthest from it."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method and what is recorded with its results."""

    explain: Explain
    dear: bool = False
    """Seconds an image."""
    settings: dict[str, Any] = field(default_factory=dict)


def similarity(embedding: Tensor, targets: Tensor, centre: Tensor) -> Tensor:
    """Centred cosines of (N, D) and (K, D), around (D,): (N, K)."""
    a, b = (nn.functional.normalize(v.float() - centre, dim=1) for v in (embedding, targets))
    return a @ b.T


def gradient(encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0) -> Tensor:
    """Σ_channels |∂s/∂x|."""
    return torch.stack([g.abs().sum(0) for g in _gradients(encoder, x[None], targets, centre)]).cpu()


def gradient_input(
    encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0
) -> Tensor:
    """Σ_channels x · ∂s/∂x."""
    return torch.stack([(x * g).sum(0) for g in _gradients(encoder, x[None], targets, centre)]).cpu()


def integrated_gradients(
    encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0
) -> Tensor:
    """Σ_channels x · mean ∂s/∂z over z on the line from 0 to x, by the midpoint rule."""
    total = torch.zeros(len(targets), *x.shape, device=x.device)
    alphas = (torch.arange(IG_STEPS, device=x.device) + 0.5) / IG_STEPS
    for part in alphas.split(GRADIENT_ROWS):
        total += torch.stack(_gradients(encoder, part.view(-1, 1, 1, 1) * x, targets, centre))
    return (x * total / IG_STEPS).sum(1).cpu()


@torch.no_grad()
def occlusion(encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0) -> Tensor:
    """What s loses where a window is hidden: mean over the windows on a pixel."""
    places = [(top, left) for top in _starts(x.shape[1]) for left in _starts(x.shape[2])]
    height, width = (scaled(WINDOW, side) for side in x.shape[1:])
    kept = torch.ones(len(places), 1, *x.shape[1:], device=x.device)
    for one, (top, left) in zip(kept, places, strict=True):
        one[:, top : top + height, left : left + width] = 0
    whole = similarity(encoder(x[None])[0], targets, centre)  # (1, K)
    lost = whole - _similarities(encoder, x, kept, targets, centre)  # (places, K)
    hidden = 1 - kept[:, 0]
    return (torch.einsum("nk,nhw->khw", lost, hidden) / hidden.sum(0)).cpu()


@torch.no_grad()
def second_order(
    encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0
) -> Tensor:
    """Inner products of the cells of both images' last maps, summed over the cells of the other image.

    Where the embedding is the mean of the last map's cells, f(x) = mean_i g_i, the similarity is the sum of
    A_ij = ⟨g_i(x) − μ, g_j(other) − μ⟩ over pairs of cells (the idea of BiLRP and exCLIP, at the pooled
    layer), and Σ_j A_ij is proportional to ⟨g_i(x) − μ, q − μ⟩, which needs the embedding of the other
    image alone.  Bilinear upsampling.

    Raises:
        InputError: the embedding is not a mean.
    """
    cells, embedding = _last_map(encoder, x[None])  # (1, C, h, w)
    mean = cells.mean((2, 3))
    if mean.shape != embedding.shape or not torch.allclose(mean, embedding, rtol=1e-3, atol=1e-4):
        raise InputError(
            "an embedding that is not the mean of the last feature map",
            expected="an encoder of timm with average pooling",
            cure="leave out --methods second_order",
        )
    direction = nn.functional.normalize(targets.float() - centre, dim=1)
    alike = torch.einsum("kc,chw->khw", direction, cells[0] - centre.view(-1, 1, 1))
    size = (x.shape[1], x.shape[2])
    return nn.functional.interpolate(alike[None], size=size, mode="bilinear", align_corners=False)[0].cpu()


@torch.no_grad()
def nearest_masks(
    encoder: FrozenEncoder, x: Tensor, targets: Tensor, *, centre: Tensor, seed: int = 0
) -> Tensor:
    """Mean of the random masks that leave x nearest to the target, less the mean of the farthest.

    The idea of Distance Explainer; masks as of RISE: cells upsampled and shifted at random.
    """
    height, width = x.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(MASKS, 1, CELLS, CELLS, generator=generator) < KEEP).float()
    cell = (-(-height // (CELLS - 1)), -(-width // (CELLS - 1)))
    whole = nn.functional.interpolate(
        cells, size=(CELLS * cell[0], CELLS * cell[1]), mode="bilinear", align_corners=False
    )
    top, left = (torch.randint(side, (MASKS,), generator=generator).tolist() for side in cell)
    kept = torch.stack(
        [one[:, t : t + height, s : s + width] for one, t, s in zip(whole, top, left, strict=True)]
    ).to(x)
    order = _similarities(encoder, x, kept, targets, centre).argsort(dim=0, descending=True)  # (MASKS, K)
    ends = max(1, round(ENDS * MASKS))
    found = [kept[of[:ends], 0].mean(0) - kept[of[-ends:], 0].mean(0) for of in order.T]
    return torch.stack(found).cpu()


METHODS: dict[str, Method] = {
    "gradient": Method(explain=gradient),
    "gradient × input": Method(explain=gradient_input),
    "integrated gradients": Method(explain=integrated_gradients, dear=True, settings={"steps": IG_STEPS}),
    "second order": Method(explain=second_order),
    "occlusion": Method(
        explain=occlusion,
        dear=True,
        settings={"window": WINDOW / WINDOW_SIDE, "stride": STRIDE / WINDOW_SIDE, "unit": "side"},
    ),
    "nearest masks": Method(
        explain=nearest_masks,
        dear=True,
        settings={"masks": MASKS, "cells": CELLS, "keep": KEEP, "ends": ENDS},
    ),
}


@torch.enable_grad()
def _gradients(encoder: FrozenEncoder, z: Tensor, targets: Tensor, centre: Tensor) -> list[Tensor]:
    """Gradients of the similarity to each target, summed over z (N, 3, H, W): K of (3, H, W)."""
    z = z.detach().clone().requires_grad_()
    scores = similarity(encoder(z)[0], targets, centre).sum(0)
    found = []
    for i, score in enumerate(scores):
        (one,) = torch.autograd.grad(score, z, retain_graph=i + 1 < len(scores))
        found.append(one.sum(0))
    return found


def _similarities(encoder: FrozenEncoder, x: Tensor, kept: Tensor, targets: Tensor, centre: Tensor) -> Tensor:
    """Similarities of x (3, H, W) under masks (N, 1, H, W): (N, K)."""
    return torch.cat([similarity(encoder(x * part)[0], targets, centre) for part in kept.split(ROWS)])


def _last_map(encoder: FrozenEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a timm model pools, (N, C, h, w), and its embedding."""
    timm_model: Any = encoder.model.model
    found: list[Tensor] = []
    hook = timm_model.global_pool.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        embedding = encoder(x)[0]
    finally:
        hook.remove()
    return found[0].float(), embedding.float()


def _starts(side: int) -> list[int]:
    """Where windows begin along a side, the last at its end."""
    window, stride = scaled(WINDOW, side), scaled(STRIDE, side)
    return [*range(0, side - window, stride), side - window]
