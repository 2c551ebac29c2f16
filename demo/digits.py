"""python -m demo.digits: the whole chain, training included, in a world whose truth is known.

    scenes ──train──▶ masker.safetensors ──export──▶ digits.nemu ──runtime──▶ overlay.png, explained/

Everything goes to demo/out/digits; run again, it replaces what it made there and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from demo.__main__ import run_all
from demo.photographs import inside_and_outside
from demo.train_encoder import ARCHITECTURE, WEIGHTS
from demo.world import Scene, scene
from runtime import Explainer
from runtime.atomic import atomic_file, atomic_folder
from runtime.media.encode import save_png
from runtime.media.overlay import colour_bar, grid, heat

OUT = Path(os.path.relpath(Path(__file__).parent / "out/digits"))
PACKAGE = OUT / "digits.nemu"
TRAIN_SCENES, TEST_SCENES = 2000, 200
SHOWN = range(12)
"""The test scenes that are drawn: the first, not the best."""

TRAIN = [
    *("--encoder", f"timm/{ARCHITECTURE}", "--weights", os.path.relpath(WEIGHTS)),
    *("--image-size", "96", "--resize", "squash", "--no-toward"),
    *("--data", str(OUT / "scenes/train"), "--out", str(OUT / "run")),
]
BUILD = [
    *("--masker", str(OUT / "run/masker.safetensors"), "--reference", str(OUT / "scenes/test")),
    *("--evaluate", str(OUT / "scenes/test"), "--precision", "fp16"),
    *("--target", "rtx", "--out", str(PACKAGE)),
]


def main() -> int:
    """Run it all; returns 0, or the exit code of the command that failed."""
    parser = argparse.ArgumentParser(prog="python -m demo.digits", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of masker training (%(default)s)")
    options = parser.parse_args()

    scenes = write_scenes()
    shown = str(OUT / "scenes/shown")
    code = run_all(
        ["train", *TRAIN, "--steps", str(options.steps), "--force"],
        ["build", *BUILD, "--force"],
        ["verify", str(PACKAGE)],
        ["explain", str(PACKAGE), shown, "--out", str(OUT / "explained"), "--force"],
    )
    if code:
        return code
    score(scenes)
    print(f"\nDone.  Look at {OUT / 'overlay.png'}")
    return 0


def write_scenes() -> list[Scene]:
    """The demo world as folders of PNG, for commands that take folders; returns the test scenes."""
    print(f"writing {TRAIN_SCENES} training and {TEST_SCENES} test scenes to {OUT / 'scenes'}", flush=True)
    test = [scene(i, split="test") for i in range(TEST_SCENES)]
    with atomic_folder(OUT / "scenes", force=True) as folder:
        for i in range(TRAIN_SCENES):
            save_png(folder / f"train/{i:04d}.png", scene(i, split="train").image)
        for i, one in enumerate(test):
            save_png(folder / f"test/{i:04d}.png", one.image)
        for i in SHOWN:
            save_png(folder / f"shown/{i:04d}.png", test[i].image)
    return test


def score(scenes: list[Scene]) -> None:
    """Mask on the digit against mask off it, over all test scenes; draws some of them."""
    with Explainer(PACKAGE) as explainer:
        print(f"\nscoring {len(scenes)} test scenes on {explainer.backend.name}")
        masks = [e.mask for e in explainer([s.image for s in scenes])]
    on, off = inside_and_outside([s.mask for s in scenes], masks)
    print(f"mean mask on the digit {on:.3f}, off the digit {off:.3f}, difference {on - off:.3f}")
    record = {"mask_on_digit": on, "mask_off_digit": off, "difference": on - off, "scenes": len(scenes)}
    with atomic_file(OUT / "score.json") as file:
        file.write_text(json.dumps(record, indent=2) + "\n")
    save_png(OUT / "overlay.png", draw([scenes[i] for i in SHOWN], [masks[i] for i in SHOWN]), force=True)


def draw(scenes: list[Scene], masks: list[np.ndarray]) -> np.ndarray:
    """Rows of (image, mask, image, mask, …), twice enlarged, and the scale: uint8 (H, W, 3)."""
    pairs = [(s.image, heat(m)) for s, m in zip(scenes, masks, strict=True)]
    cells = [np.kron(cell, np.ones((2, 2, 1), np.uint8)) for pair in pairs for cell in pair]
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    body = grid(rows)
    return np.concatenate([body, np.full((6, body.shape[1], 3), 255, np.uint8), colour_bar(body.shape[1])])


if __name__ == "__main__":
    sys.exit(main())
