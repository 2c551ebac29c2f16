"""The demo's masker with several seeds: does its mask find the digit?

python -m benchmarks.demo_score --json benchmarks/results/demo_score.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.record import command, finish
from benchmarks.quality.maskers import train_masker
from demo.digits import TEST_SCENES, TRAIN, write_scenes
from demo.photographs import inside_and_outside
from demo.world import Scene
from train.checkpoint import load_nem
from train.run_folder import read_summary


def score(seed: int, scenes: list[Scene], out: Path, *, steps: int) -> dict[str, Any]:
    """Train with one seed, as the demo does, and score the test scenes with the torch module."""
    arguments = [*TRAIN, "--steps", str(steps), "--seed", str(seed), "--out", str(out), "--quiet"]
    train_masker(arguments)
    nem = load_nem(out / "masker.safetensors")
    images = np.stack([s.image for s in scenes])
    with torch.inference_mode():
        masks = [
            m.numpy()
            for batch in torch.from_numpy(images).split(50)
            for m in nem(nem.encoder.normalize(batch))[1]
        ]
    on, off = inside_and_outside([s.mask for s in scenes], masks)
    summary = read_summary(out)
    return {
        "seed": seed,
        "mask_on_digit": on,
        "mask_off_digit": off,
        "difference": on - off,
        "embedding_distance": summary.distance,
        "scenes": len(scenes),
        "steps": steps,
    }


def main() -> None:
    parser = command("demo_score", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    scenes = write_scenes()[:TEST_SCENES]
    with tempfile.TemporaryDirectory() as folder:
        rows = [score(s, scenes, Path(folder) / str(s), steps=options.steps) for s in options.seeds]
    finish(options.json, rows)


if __name__ == "__main__":
    main()
