"""The training loops of the planted encoders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.quality.planted.patterns import TEXTURES
from benchmarks.quality.planted.world import FACTORS, SIZE, scene
from demo.train_encoder import ARCHITECTURE, MEAN, STD, WEIGHTS

CLASSES = {"red": 10, "blue": 10, "patch": len(TEXTURES)}
BATCH = 64
"""Images that are named at once (half of them twins), and scenes that SimCLR sees two views of."""
TWINS = 1.0
"""Weight of the term that pulls twins together."""
TEMPERATURE = 0.2
SEED = 0
TRAINING_PRECISION = "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
"""Precision of every training here: a CPU without bfloat16 instructions emulates them, ten times slower."""


def fit_names(truth: Sequence[str], *, architecture: str, steps: int, scenes: int) -> nn.Module:
    """Train to name the factors of `truth`, and to embed a scene as its twin.

    The twin shares those factors and all places; everything else is changed.  The demo's architecture
    starts from the demo's weights, which already see digits.  Another one starts from nothing and close
    up: first it sees only what it is to name, and in the first two thirds the view widens to the scene;
    twins count in proportion to the steps done.
    """
    torch.manual_seed(SEED)
    images, labels, boxes = rendered(scenes)
    twins, _, _ = rendered(scenes, changed=tuple(name for name in FACTORS if name not in truth))
    classes = sum(CLASSES[name] for name in truth)
    # from nothing, ConvNeXt's residual branches must not start at 1e-6 of their size
    options: dict[str, Any] = {"ls_init_value": 1.0} if architecture.startswith("convnext") else {}
    model: Any = timm.create_model(architecture, num_classes=classes, **options)
    if warm := architecture == ARCHITECTURE:
        start = {k: v.float() for k, v in load_file(WEIGHTS).items() if not k.startswith("fc.")}
        model.load_state_dict(start, strict=False)
    wanted = torch.from_numpy(np.stack([labels[name] for name in truth], axis=1))
    draws = torch.Generator().manual_seed(SEED)

    def loss(progress: float) -> tuple[Tensor, dict[str, float]]:
        which = torch.randint(scenes, (BATCH // 2,), generator=draws)
        pixels = jitter(torch.cat([images[which], twins[which]]))
        if not warm:
            pixels = close_up(pixels, boxes[truth[0]][which].repeat(2, 1), widening=min(1, 1.5 * progress))
        z = model.forward_head(model.forward_features(pixels), pre_logits=True)
        logits, z, targets = model.get_classifier()(z).float(), z.float(), wanted[which].repeat(2, 1)
        parts = list(zip(logits.split([CLASSES[name] for name in truth], dim=1), targets.T, strict=True))
        naming = sum((F.cross_entropy(part, t, label_smoothing=0.05) for part, t in parts), torch.tensor(0.0))
        one, other = z.chunk(2)
        apart = (one - one.roll(1, dims=0)).square().sum(1).mean()
        together = (one - other).square().sum(1).mean() / apart
        right = torch.stack([(part.argmax(1) == t).float().mean() for part, t in parts])
        shown = {"named": naming.item(), "twins": together.item(), "right": right.min().item()}
        return naming + TWINS * (1.0 if warm else progress) * together, shown

    optimise(loss, model, steps=steps, name="+".join(truth))
    return model


def fit_selfsup(truth: Sequence[str], *, architecture: str, steps: int, scenes: int) -> nn.Module:
    """SimCLR from scratch: two views of a scene are each other's only match among all views of a batch."""
    torch.manual_seed(SEED)
    images, _, _ = rendered(scenes)
    model: Any = timm.create_model(architecture, num_classes=0)
    width = model.num_features
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
    draws = torch.Generator().manual_seed(SEED)
    match = torch.arange(2 * BATCH).roll(BATCH)

    def loss(progress: float) -> tuple[Tensor, dict[str, float]]:
        which = torch.randint(scenes, (BATCH,), generator=draws)
        pixels = view(images[which].repeat(2, 1, 1, 1))
        p = F.normalize(head(model(pixels)).float(), dim=1)
        similarity = (p @ p.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        right = float((similarity.argmax(1) == match).float().mean())
        contrast = F.cross_entropy(similarity, match)
        return contrast, {"loss": contrast.item(), "right": right}

    optimise(loss, nn.Sequential(model, head), steps=steps, name="selfsup")
    return model


def optimise(
    loss: Callable[[float], tuple[Tensor, dict[str, float]]], model: nn.Module, *, steps: int, name: str
) -> None:
    """AdamW with one cycle of the learning rate; ends in eval mode.

    In bfloat16 where the CPU computes in it, unless there are depthwise convolutions, which even then take
    many times longer.
    """
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    half = TRAINING_PRECISION == "bf16-mixed" and not depthwise
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.15)
    bar = tqdm(range(steps), desc=name, mininterval=10)
    for step in bar:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value, shown = loss(step / steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix({k: f"{v:.3f}" for k, v in shown.items()}, refresh=False)
    model.eval()


@functools.lru_cache(maxsize=2)
def rendered(
    scenes: int, *, changed: tuple[str, ...] = ()
) -> tuple[Tensor, dict[str, np.ndarray], dict[str, Tensor]]:
    """The first training scenes: uint8 (scenes, SIZE, SIZE, 3); of each factor the labels (scenes,), and
    the boxes (scenes, 4) around what is visible of it: left, top, right, bottom in −1..1."""
    images = np.empty((scenes, SIZE, SIZE, 3), np.uint8)
    labels = {name: np.empty(scenes, np.int64) for name in CLASSES}
    boxes = {name: torch.empty(scenes, 4) for name in CLASSES}
    for i in tqdm(range(scenes), desc="scenes", mininterval=10):
        one = scene(i, split="train", changed=changed)
        images[i] = one.image
        for name in labels:
            labels[name][i] = one.labels[name]
            rows, columns = (np.flatnonzero(one.regions[name].any(axis=axis)) for axis in (1, 0))
            edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            boxes[name][i] = torch.tensor(edges) * (2 / SIZE) - 1
    return torch.from_numpy(images), labels, boxes


def close_up(pixels: Tensor, boxes: Tensor, *, widening: float) -> Tensor:
    """(N, 3, S, S) seen through windows between the boxes (N, 4) at 0 and the whole image at 1."""
    box = torch.lerp(boxes, torch.tensor([-1.0, -1, 1, 1]), widening)
    centre, half = (box[:, 2:] + box[:, :2]) / 2, (box[:, 2:] - box[:, :2]) / 2
    affine = torch.cat([torch.diag_embed(half), centre[:, :, None]], dim=2)  # (N, 2, 3)
    return sampled(pixels, affine).contiguous(memory_format=torch.channels_last)


def sampled(pixels: Tensor, affine: Tensor) -> Tensor:
    """(N, C, S, S) seen through windows (N, 2, 3); beyond the image it is mirrored."""
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def jitter(images: Tensor, *, strength: float = 0.15) -> Tensor:
    """uint8 (N, S, S, 3) → normalised (N, 3, S, S), each with its own brightness and contrast."""
    pixels = images.permute(0, 3, 1, 2) / 255
    contrast, brightness = (torch.empty(len(images), 1, 1, 1).uniform_(-strength, strength) for _ in "cb")
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * (1 + contrast) + brightness).clamp(0, 1)
    return ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def view(images: Tensor) -> Tensor:
    """A random crop of 50 to 100 % of the area, mirrored half of the time, with other colours.

    uint8 (N, S, S, 3) → normalised (N, 3, S, S).
    """
    n = len(images)
    side = torch.empty(n).uniform_(0.5, 1).sqrt()
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    centre = (torch.rand(n, 2) * 2 - 1) * (1 - side)[:, None]  # in (-1, 1), where the image is (-1, 1)
    zero = torch.zeros(n)
    affine = torch.stack([side * mirror, zero, centre[:, 0], zero, side, centre[:, 1]], dim=1)
    cropped = sampled(jitter(images, strength=0.3), affine.view(n, 2, 3))
    grey = cropped.mean(dim=1, keepdim=True)
    saturation = torch.empty(n, 1, 1, 1).uniform_(0.6, 1.4)
    tint = torch.empty(n, 3, 1, 1).uniform_(0.85, 1.15)
    return ((grey + (cropped - grey) * saturation) * tint).contiguous(memory_format=torch.channels_last)
