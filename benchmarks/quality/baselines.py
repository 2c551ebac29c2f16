"""Competing explanations of an embedding, each from its authors' package, behind one signature.

A package is imported where it is called: without it only its own methods raise ModuleNotFoundError.

    BASELINES[name].explain(encoder, x, seed=0) -> Tensor

takes normalised images float32 (N, 3, H, W) and gives float32 (N, H, W) on the CPU, higher = more
important: raw scores, never quantised or rescaled, so that neither rank nor size is lost.

A row is explained alike whatever stands beside it: its reference is its own embedding, and its random
numbers come from (seed, image).  Fill and baseline are zero, the mean colour.  The gradient methods see
the embedding before any L2 normalisation: a unit vector's product with itself has no gradient at z = x.
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.encoder.frozen import FrozenEncoder, weights_fingerprint

Explain = Callable[..., Tensor]

ROWS = 100
"""Images that go through the encoder at once where a method has many; RELAX's own batch of masks."""
GRADIENT_ROWS = 25
"""Images at once where their activations are kept for the gradient."""
RELAX_BATCHES, IG_STEPS, SHAP_SAMPLES = 30, 50, 5
"""The packages' defaults."""
WINDOW, STRIDE, WINDOW_SIDE = 8, 4, 96
"""Occlusion: pixels on an image of WINDOW_SIDE; captum has no default."""
RUNS_KEPT = 1024
"""RELAX runs that are remembered, one an image."""


@dataclass(frozen=True)
class Baseline:
    """One method and what is recorded with its results."""

    explain: Explain
    settings: dict[str, Any]
    passes: Callable[[int, int], int]
    """(height, width) → images that the encoder is given for one explanation, the reference included."""


def relax(encoder: FrozenEncoder, x: Tensor, *, seed: int, batches: int = RELAX_BATCHES) -> Tensor:
    """R_ij = Σ_n s_n M_n,ij / Σ_n M_n,ij, s_n = cos(f(x), f(x⊙M_n)) (Wickstrøm et al. 2023)."""
    return torch.stack([importance for importance, _ in _relax(encoder, x, seed=seed, batches=batches)])


def u_relax(encoder: FrozenEncoder, x: Tensor, *, seed: int, batches: int = RELAX_BATCHES) -> Tensor:
    """RELAX, zero where its uncertainty is above the image's median; shares the run of `relax`.

    As in the package, that zero ranks above a negative importance.
    """
    return torch.stack([certain for _, certain in _relax(encoder, x, seed=seed, batches=batches)])


def integrated_gradients(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """Label-free IG: captum's on g_x, Σ_channels |attribution|."""
    from captum.attr import IntegratedGradients

    attribution = IntegratedGradients(_product(encoder)).attribute(
        x.detach(),
        baselines=0,
        additional_forward_args=(_reference(encoder, x),),
        n_steps=IG_STEPS,
        internal_batch_size=max(GRADIENT_ROWS, len(x)),
    )
    return _over_channels(attribution)


def gradient_shap(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """Label-free GradientSHAP: captum's on g_x, Σ_channels |attribution|; image by image, as it is random."""
    from captum.attr import GradientShap

    def one(image: Tensor) -> Tensor:
        return GradientShap(_product(encoder)).attribute(
            image,
            baselines=torch.zeros_like(image),
            additional_forward_args=(_reference(encoder, image),),
            n_samples=SHAP_SAMPLES,
            stdevs=0.0,
        )

    rows = []
    for image in x.detach().split(1):
        with _random_state(seed, device=x.device):  # not of the pixels: a noisy copy has the same samples
            rows.append(one(image))
    return _over_channels(torch.cat(rows))


def saliency(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """Label-free saliency: Σ_channels |∂g_x/∂z| at z = x."""
    from captum.attr import Saliency

    attribution = Saliency(_product(encoder)).attribute(
        x.detach().clone().requires_grad_(), abs=True, additional_forward_args=(_reference(encoder, x),)
    )
    return _over_channels(attribution)


@torch.no_grad()
def lafam(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """Channel mean of the last feature map, nearest upsampling (LaFAM, arXiv 2407.06059).

    A map with negative values (transformers, ConvNeXt) was not rectified: each of its channels is centred
    over the positions and rectified before the mean.
    """
    features = encoder(x)[1][-1].float()  # (N, C, h, w)
    signed = features.amin((1, 2, 3), keepdim=True) < 0
    centred = (features - features.mean((2, 3), keepdim=True)).relu()
    activation = torch.where(signed, centred, features).mean(1, keepdim=True)
    return nn.functional.interpolate(activation, size=x.shape[2:], mode="nearest")[:, 0].cpu()


@torch.no_grad()
def occlusion(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """1 − cos(f(x), f(z)), z = x with a window filled; mean over the windows on a pixel, negative → 0."""
    from captum.attr import Occlusion

    def cosine(z: Tensor, reference: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(encoder.model(z)[0], reference, dim=1)

    attribution = Occlusion(cosine).attribute(
        x,
        sliding_window_shapes=(3, *(scaled(WINDOW, side) for side in x.shape[2:])),
        strides=(3, *(scaled(STRIDE, side) for side in x.shape[2:])),
        baselines=0,
        additional_forward_args=(_reference(encoder, x),),
        perturbations_per_eval=max(1, ROWS // len(x)),
    )
    return attribution[:, 0].relu().float().cpu()  # a window covers the three channels alike


def random(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """Uniform noise."""
    return torch.stack(_seeded_rows(lambda image: torch.rand(image.shape[2:]), x, seed=seed))


def centre(encoder: FrozenEncoder, x: Tensor, *, seed: int) -> Tensor:
    """A Gaussian about the middle, σ = a quarter of the side."""
    rows, columns = (torch.exp(-(((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) / 2) for n in x.shape[2:])
    return torch.outer(rows, columns).repeat(len(x), 1, 1)


def _product(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    """g_x(z) = ⟨f(x), f(z)⟩ (Crabbé & van der Schaar 2022): z (N, 3, H, W), f(x) (N, D) → (N,), by row."""
    return lambda z, reference: (encoder.model(z)[0] * reference).sum(1)


@torch.no_grad()
def _reference(encoder: FrozenEncoder, x: Tensor) -> Tensor:
    """f(x), (N, D), a constant for the gradient."""
    return encoder.model(x)[0]


def _over_channels(attribution: Tensor) -> Tensor:
    """Σ_channels |a|: (N, 3, H, W) → (N, H, W)."""
    return attribution.detach().abs().sum(1).float().cpu()


def scaled(pixels: int, side: int) -> int:
    """Pixels of an image of WINDOW_SIDE, on an image with this side."""
    return max(1, round(pixels * side / WINDOW_SIDE))


def _windows(height: int, width: int) -> int:
    """Positions of the occluding window."""
    return math.prod(
        math.ceil((side - scaled(WINDOW, side)) / scaled(STRIDE, side)) + 1 for side in (height, width)
    )


class _Embedding(nn.Module):
    """The encoder as RELAX wants it: images (N, 3, H, W) → embedding (N, D)."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[0]


_runs: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}


def _relax(encoder: FrozenEncoder, x: Tensor, *, seed: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(importance, U-RELAX), (H, W) each, of every image; run once for an image, seed and set of weights."""
    weights = weights_fingerprint(encoder)
    for image in x:
        key = (weakref.ref(encoder), weights, _seed_of(image, seed=seed), tuple(x.shape[2:]), batches)
        if key not in _runs:
            while len(_runs) >= RUNS_KEPT:
                del _runs[next(iter(_runs))]
            [_runs[key]] = _seeded_rows(lambda z: _run(encoder, z, batches=batches), image[None], seed=seed)
        yield _runs[key]


@torch.no_grad()
def _run(encoder: FrozenEncoder, image: Tensor, *, batches: int) -> tuple[Tensor, Tensor]:
    """The package on one image (1, 3, H, W), at the encoder's own size (the package's examples: 224)."""
    from relax_xai.relax import RELAX

    explanation = RELAX(image, _Embedding(encoder), batch_size=ROWS, num_batches=batches)
    explanation()
    return explanation.importance.cpu(), explanation.u_relax.cpu()


def _seeded_rows(one: Callable[[Tensor], Any], x: Tensor, *, seed: int) -> list[Any]:
    """`one` of each image (1, 3, H, W), its random numbers a function of (seed, image)."""
    results = []
    for image in x:
        with _random_state(_seed_of(image, seed=seed), device=x.device):
            results.append(one(image[None]))
    return results


def _seed_of(image: Tensor, *, seed: int) -> int:
    """63 bits of (seed, pixels)."""
    pixels = image.detach().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(f"{seed} ".encode() + pixels).digest()[:8], "big") >> 1


@contextmanager
def _random_state(seed: int, *, device: torch.device) -> Iterator[None]:
    """torch's and numpy's global generators (RELAX draws from the one, captum from both), put back after."""
    state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


_RELAX = {
    "package": "relax-xai",
    "masks": RELAX_BATCHES * ROWS,
    "cells": 7,
    "keep_probability": 0.5,
    "fill": 0,
}
_LABEL_FREE = {"package": "captum", "target": "<f(x), f(z)>", "channels": "sum of |attribution|"}
_OCCLUSION = {
    "package": "captum",
    "target": "cos(f(x), f(z))",
    "baseline": 0,
    "window": WINDOW / WINDOW_SIDE,
    "stride": STRIDE / WINDOW_SIDE,
    "unit": "side",
}
_IG = {**_LABEL_FREE, "baseline": 0, "steps": IG_STEPS, "method": "gausslegendre"}
_SHAP = {**_LABEL_FREE, "baseline": 0, "samples": SHAP_SAMPLES, "stdevs": 0.0}

BASELINES: dict[str, Baseline] = {
    "relax": Baseline(relax, _RELAX, lambda *_: RELAX_BATCHES * ROWS + 1),
    "u_relax": Baseline(
        u_relax, {**_RELAX, "keep": "uncertainty <= median"}, lambda *_: RELAX_BATCHES * ROWS + 1
    ),
    "integrated_gradients": Baseline(integrated_gradients, _IG, lambda *_: IG_STEPS + 1),
    "gradient_shap": Baseline(gradient_shap, _SHAP, lambda *_: SHAP_SAMPLES + 1),
    "saliency": Baseline(saliency, _LABEL_FREE, lambda *_: 2),
    "lafam": Baseline(lafam, {"map": "last of the pyramid", "upsampling": "nearest"}, lambda *_: 1),
    "occlusion": Baseline(occlusion, _OCCLUSION, lambda height, width: _windows(height, width) + 2),
    "random": Baseline(random, {}, lambda *_: 0),
    "centre": Baseline(centre, {"sigma": 0.25, "unit": "side"}, lambda *_: 0),
}
