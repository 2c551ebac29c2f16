"""Train the demo's encoder: a small timm ResNet that names the digit of a scene.

    python -m demo.train_encoder

It writes `demo/encoder.safetensors` (half precision) and `demo/encoder.json` (the command, the versions,
the test score).  Trained from scratch under full clutter it does not start, so the photographs begin
black and are faded in over the first half of training.  There are few photographs, so in the second
half colours are shuffled: each image has its channels permuted and inverted at random.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from demo.world import scene
from runtime.atomic import atomic_file

ARCHITECTURE = "resnet10t"
WEIGHTS = Path(__file__).parent / "encoder.safetensors"
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def batch(start: int, n: int, *, split: str, clutter: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes start..start+n-1 as normalised images float32 (n, 3, S, S) and digits int64 (n,)."""
    scenes = [scene(i, split=split, clutter=clutter) for i in range(start, start + n)]
    images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2) / 255
    return (images - MEAN) / STD, torch.tensor([s.digit for s in scenes])


def recolour(images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Permute the channels of each normalised image (N, 3, S, S), and invert each half of the time."""
    pixels = images * STD + MEAN
    for image in pixels:
        image.copy_(image[torch.randperm(3, generator=generator)])
    inverted = torch.randint(2, (len(images), 3, 1, 1), generator=generator)
    return (torch.where(inverted == 1, 1 - pixels, pixels) - MEAN) / STD


def fit(*, steps: int, batch_size: int, seed: int) -> nn.Module:
    """Train; the clutter rises from 0 to 1 over the first half."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.15)
    bar = tqdm(range(steps), desc="encoder")
    for step in bar:
        clutter = min(1.0, 2.5 * step / steps)
        images, digits = batch(step * batch_size, batch_size, split="train", clutter=clutter)
        if step > steps // 2:
            images = recolour(images, generator=generator)
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, digits, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracy = float((logits.argmax(1) == digits).float().mean())
        bar.set_postfix(loss=f"{loss.item():.2f}", accuracy=f"{accuracy:.2f}", clutter=f"{clutter:.2f}")
    return model


@torch.no_grad()
def accuracy(model: nn.Module, *, scenes: int = 2000) -> float:
    """Share of test scenes (photographs and digits never trained on) whose digit is named."""
    model.eval()
    right = 0
    for start in range(0, scenes, 100):
        images, digits = batch(start, 100, split="test")
        right += int((model(images).argmax(1) == digits).sum())
    return right / scenes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train_encoder", description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model = fit(steps=options.steps, batch_size=options.batch_size, seed=options.seed)
    with atomic_file(WEIGHTS) as file:
        halves = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        save_file(halves, file)
    model.load_state_dict(load_file(WEIGHTS))  # score what ships, not what was trained
    score = accuracy(model)
    with atomic_file(WEIGHTS.with_suffix(".json")) as file:
        record = {
            "command": f"python -m demo.train_encoder --steps {options.steps} "
            f"--batch-size {options.batch_size} --seed {options.seed}",
            "architecture": f"timm/{ARCHITECTURE}",
            "test_accuracy": score,
            "test_scenes": 2000,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        }
        file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{WEIGHTS}: {score:.1%} of 2000 test scenes named right")


if __name__ == "__main__":
    main()
