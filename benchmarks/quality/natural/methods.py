"""What explains a real encoder: our masker, the baselines, Expected Gradients, a mask for each image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.record import short_digest
from benchmarks.quality import maskers
from benchmarks.quality.baselines import BASELINES, GRADIENT_ROWS
from benchmarks.quality.natural.subject import TRAIN, Source, digest, encoder_of, subject_of
from benchmarks.quality.scoring import Explain
from runtime.errors import InputError
from train.checkpoint import load_nem, read_config
from train.encoder.frozen import FrozenEncoder
from train.objective import OBJECTIVES, Batch
from train.occlusion import make_fill
from train.run_folder import MASKER, SUMMARY, read_summary

NEMU, ORDER = "nemu", "nemu_order"
"""The mask; and its logits, whose order is not lost where the mask is 1 to the last digit."""
EXPECTED, OPTIMISED = "expected_gradients", "optimised"
OWN = (NEMU, ORDER)
OTHERS = (*BASELINES, EXPECTED, OPTIMISED)
MASKS = (NEMU, OPTIMISED)
"""Whose level means something."""
EG_SAMPLES = 50
OPTIMISED_STEPS, OPTIMISED_RATE, OPTIMISED_STRIDE = 300, 0.4, 2
"""Adam's; the stride is that of our decoder's finest level, so that no finer mask is possible for either."""

Training = Sequence[str]
"""Options of `python -m train`."""


def settings(source: Source, name: str, method: str, *, seed: int, options: Training) -> dict[str, Any]:
    """Everything that a method's map depends on."""
    if method in BASELINES:
        return BASELINES[method].settings
    if method == EXPECTED:
        return {"target": "<f(x), f(z)>", "baselines": "photographs", "samples": EG_SAMPLES}
    config = maskers.settings(_arguments(source, name, seed=seed, options=options))
    if method == OPTIMISED:
        of = {"steps": OPTIMISED_STEPS, "rate": OPTIMISED_RATE, "stride": OPTIMISED_STRIDE}
        return {"optimiser": of, "masker": config}
    return config


def explainer(
    source: Source, work: Path, name: str, method: str, *, seed: int, options: Training, images: int
) -> tuple[Explain, dict[str, Any]]:
    """A method on an encoder, and what is known of its training (empty for a baseline).

    Args:
        images: of the subject whose photographs and centre are used.
    """
    if method in BASELINES:
        return (lambda encoder, x: BASELINES[method].explain(encoder, x, seed=seed)), {}
    seen = subject_of(source, name, images)
    if method == EXPECTED:
        return functools.partial(expected_gradients, photographs=seen.photographs, seed=seed), {}
    run = trained(source, work, name, seed=seed, options=options)
    config, summary = read_config(run / MASKER), read_summary(run)
    price = config.area_weight or summary.area_weight
    if price is None:
        raise InputError(
            f"{run} does not say what its area weight was",
            expected="area_weight in its configuration or its summary",
            cure="train again with --area-weight",
        )
    facts = {"objective": config.objective, "area_weight": price}
    if method == OPTIMISED:
        of = functools.partial(optimised, centre=seen.centre, seed=seed, area_weight=price)
        return functools.partial(of, objective=config.objective, fill=config.fill), facts
    masker = load_nem(run / MASKER, encoder=encoder_of(source, name)).masker.to(source.device)
    seconds = None if summary.resumed_at else summary.seconds
    facts |= {"train_seconds": seconds, "train_steps": summary.steps, "train_loss": summary.loss}
    return functools.partial(_order if method == ORDER else maskers.mask, masker), facts


def trained(source: Source, work: Path, name: str, *, seed: int, options: Training, workers: int = 1) -> Path:
    """The run folder of a masker, trained by `python -m train` if it is not there yet.

    Args:
        workers: processes that decode images.

    Raises:
        InputError: training failed; it has said why.
    """
    arguments = _arguments(source, name, seed=seed, options=options)
    fingerprint = encoder_of(source, name).record.fingerprint
    key = [fingerprint, digest(source.data), settings(source, name, NEMU, seed=seed, options=options)]
    out = work / "runs" / f"{name}-{seed}-{short_digest(key)}"
    if (out / MASKER).exists() and (out / SUMMARY).exists():  # also where data lie elsewhere by now
        return out
    where = ["--data", str((source.data / TRAIN).resolve()), "--out", str(out)]
    how = ["--workers", str(workers), "--quiet", "--resume", "auto"]
    maskers.train_masker([*arguments, *where, *how])
    return out


def expected_gradients(encoder: FrozenEncoder, x: Tensor, *, photographs: Tensor, seed: int) -> Tensor:
    """Label-free Expected Gradients: E (x − b) · ∂g_x/∂z at z = b + α(x − b), Σ_channels |·|.

    b is a training photograph, α uniform in [0, 1] (Erion et al. 2021); g_x(z) = ⟨f(x), f(z)⟩.
    """
    maps = []
    for image in x.detach():
        generator = torch.Generator().manual_seed(seed)
        drawn = photographs[torch.randint(len(photographs), (EG_SAMPLES,), generator=generator)]
        alpha = torch.rand(EG_SAMPLES, 1, 1, 1, generator=generator).to(x)
        with torch.no_grad():
            reference = encoder.model(image[None])[0]
        total = torch.zeros_like(image)
        for b, a in zip(drawn.split(GRADIENT_ROWS), alpha.split(GRADIENT_ROWS), strict=True):
            z = (b + a * (image - b)).requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad((encoder.model(z)[0] * reference).sum(), z)
            total += ((image - b) * gradient).sum(0)
        maps.append((total / EG_SAMPLES).abs().sum(0))
    return torch.stack(maps).float().cpu()


def optimised(
    encoder: FrozenEncoder,
    x: Tensor,
    *,
    centre: Tensor,
    area_weight: float,
    objective: str,
    fill: str,
    seed: int,
    steps: int = OPTIMISED_STEPS,
    target: Tensor | None = None,
) -> Tensor:
    """The objective's own optimum: a mask for each image by Adam on its logits, with no network between.

    Args:
        target: (N, D), what the masked images are to look like; default: the images themselves.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    height, width = (-(-side // OPTIMISED_STRIDE) for side in x.shape[2:])
    coarse = torch.zeros(len(x), 1, height, width, device=x.device, requires_grad=True)
    optimizer = torch.optim.Adam([coarse], lr=OPTIMISED_RATE)

    def logits() -> Tensor:
        return nn.functional.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    def embed(images: Tensor) -> Tensor:
        return encoder(images)[0]

    with torch.no_grad():
        embedding = embed(x) if target is None else target
    for _ in range(steps):
        with torch.enable_grad():
            batch = Batch(
                x=x,
                embedding=embedding,
                logits=logits(),
                fill=make_fill(fill, x, generator=generator),
                centre=centre,
                generator=generator,
            )
            loss = OBJECTIVES[objective](embed, batch, area_weight=area_weight).loss
            optimizer.zero_grad()
            (len(x) * loss).backward()
        optimizer.step()
    with torch.no_grad():
        return logits().sigmoid().cpu()


def _order(masker: nn.Module, encoder: FrozenEncoder, x: Tensor) -> Tensor:
    logits = maskers.logits(masker, encoder, x)
    return logits - logits.amin((1, 2), keepdim=True)  # >= 0, as some figures want


def _arguments(source: Source, name: str, *, seed: int, options: Training) -> list[str]:
    """Options of `python -m train`, without --data and --out."""
    config = source.config(name)
    return [
        *("--encoder", config.encoder, "--weights", str(config.weights)),
        *(
            "--image-size",
            str(source.size),
            "--resize",
            "squash",
            "--no-toward",
            "--seed",
            str(seed),
            *options,
        ),
    ]
