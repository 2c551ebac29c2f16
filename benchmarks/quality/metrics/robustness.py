"""Does a map stay when the image hardly changes, and go when the model is another?

An explainer is a function from normalised images (N, 3, H, W) to maps (N, H, W).  A constant map has no
scale and no ranks: its figure is nan, which `estimate` counts.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common.estimate import Estimate
from benchmarks.quality.metrics.maps import flat, unit_ranks
from runtime.errors import InputError
from train.encoder.frozen import FrozenEncoder

Module = TypeVar("Module", bound=nn.Module)
RANDOMISED_SEEDS = (43, 44, 45, 46, 47)
Explain = Callable[[Tensor], Tensor]
"""Normalised images (N, 3, H, W) → maps (N, H, W)."""


def average_sensitivity(
    explain: Explain, x: Tensor, *, generator: torch.Generator, radius: float = 0.2, draws: int = 30
) -> NDArray[np.float64]:
    """Mean over draws of ‖a − a'‖₂ / ‖a‖₂, per image (N,); a' is the map of x + U(−radius, radius).

    Maps are scaled to 0..1 one by one, a constant one to 0 (Yeh et al. 2019; radius, draws and scaling as
    in the NEM authors' code).  nan where a is constant.
    """
    a = _unit_range(explain(x))  # (N, H·W)
    distance = torch.zeros_like(a[:, 0])
    for _ in range(draws):
        noise = (2 * torch.rand(x.shape, generator=generator) - 1) * radius
        distance += (a - _unit_range(explain(x + noise.to(x)))).norm(dim=1)
    return (distance / draws / a.norm(dim=1)).numpy()


def randomised(model: Module, *, seed: int) -> Module:
    """A copy of the model with nothing learned left in it; the model itself is not touched.

    Every layer is re-initialised by its `reset_parameters` (BatchNorm's statistics too).  Parameters of
    modules without one (class tokens, position tables, ConvNeXt's layer scale) have their values shuffled.
    torch's global random state is left as it was.
    """
    model = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                shuffled = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[shuffled].view_as(parameter))
    return model


@functools.cache
def randomised_copies(encoder: FrozenEncoder) -> list[FrozenEncoder]:
    """One for each of RANDOMISED_SEEDS, made once."""
    return [randomised(encoder, seed=seed) for seed in RANDOMISED_SEEDS]


def mprt(explain: Explain, explain_randomised: Explain, x: Tensor) -> NDArray[np.float64]:
    """|Spearman's ρ| between the maps of the model and of its randomised copy, per image (N,).

    Model parameter randomisation test (Adebayo et al. 2018), all layers at once, on the signed maps: abs()
    of a map would fold its order.  Near `mprt_floor` is right; 1 means that the model does not matter.
    """
    pairs = zip(_ranks(explain(x)), _ranks(explain_randomised(x)), strict=True)
    return np.array([abs(u @ v) for u, v in pairs])


def mprt_floor(maps: Tensor) -> Estimate:
    """Mean |ρ| between the maps (N, H, W) of different images, over all pairs: what maps share anyway.

    An `mprt` mean up to its `upper` shows no more of the model than that.  The pairs are not independent,
    so the error is the delete-one jackknife's: 2·(n−1)/(n−2)·s/√n, s the spread of each map's mean |ρ|.

    Raises:
        InputError: fewer than three maps that are not constant.
    """
    ranks = _ranks(maps)
    known = ranks[~np.isnan(ranks[:, 0])]
    n = len(known)
    if n < 3:
        raise InputError(
            f"{n} of {len(ranks)} maps that are not constant",
            expected="at least 3",
            cure="explain more images",
        )
    rho = np.abs(known @ known.T)
    np.fill_diagonal(rho, 0)
    each = rho.sum(1) / (n - 1)
    error = 2 * (n - 1) / (n - 2) * each.std(ddof=1) / n**0.5
    return Estimate(float(each.mean()), float(error), count=n, undefined=len(ranks) - n)


def _unit_range(maps: Tensor) -> Tensor:
    """(N, H, W) → (N, H·W), each min-max scaled; zeros where constant."""
    maps = maps.detach().cpu().double().flatten(1)
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def _ranks(maps: Tensor) -> NDArray[np.float64]:
    """(N, H, W) → (N, H·W), `unit_ranks` of each."""
    return np.stack([unit_ranks(flat(m)) for m in maps.detach().cpu().double().numpy()])
