"""The explanations themselves: the same scenes on several encoders, one column a method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.__main__ import STEPS
from benchmarks.quality.explainers import FIRST_SCENE, encoder_of, explainer
from benchmarks.quality.planted import encoders
from benchmarks.quality.planted.world import Scene, scene
from runtime.media.encode import save_png
from runtime.media.overlay import grid, heat

COLUMNS = {
    "nemu": "nemu",
    "relax": "RELAX",
    "occlusion": "occlusion",
    "integrated_gradients": "Integr. Grad.",
    "gradient_shap": "GradientSHAP",
    "saliency": "saliency",
    "lafam": "LaFAM",
}
MASKERS = ("nemu",)
"""Its maps are masks, whose level means something: drawn on the fixed scale 0..1."""
ENCODERS = ("digits", "red", "patch")
SHOWN = range(FIRST_SCENE, FIRST_SCENE + 4)
"""Test scenes: the first that are measured, not the best."""
SCALE, FONT, LABEL, TITLE = 2, 22, 160, 40
"""Enlargement; pixels of the letters, of the labels' width and of the titles' height."""


def draw(out: Path, names: Collection[str], methods: Collection[str], *, work: Path) -> None:
    """Write the picture of those of ENCODERS and COLUMNS that are named.

    Maskers (seed 0) that are not there are trained; a RELAX map takes 3001 passes.
    """
    shown = [method for method in COLUMNS if method in methods]
    scenes = [scene(i, split="test") for i in SHOWN]
    maps = {name: _maps(name, shown, scenes, work=work) for name in ENCODERS if name in names}
    rows = []
    for i, one in enumerate(scenes):
        for name, of in maps.items():
            region = np.any([one.regions[factor] for factor in encoders.ENCODERS[name].truth], axis=0)
            cells = [heat(of[m][i] if m in MASKERS else unit_range(of[m][i])) for m in shown]
            rows.append((name, [one.image, heat(region.astype(float)), *cells]))
    save_png(out, sheet(["scene", "truth", *(COLUMNS[m] for m in shown)], rows), force=True)


def sheet(titles: Sequence[str], rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
    """A titled table of pictures: rows of (label, uint8 (H, W, 3) each), enlarged; uint8 (H', W', 3)."""
    enlarged = [
        (label, [np.kron(c, np.ones((SCALE, SCALE, 1), np.uint8)) for c in cells]) for label, cells in rows
    ]
    height, width, _ = enlarged[0][1][0].shape
    head = [
        lettering(title, height=TITLE, width=w)
        for title, w in zip(["", *titles], [LABEL, *[width] * len(titles)], strict=True)
    ]
    return grid(
        [head, *([lettering(label, height=height, width=LABEL), *cells] for label, cells in enlarged)]
    )


def lettering(words: str, *, height: int, width: int) -> np.ndarray:
    """Black on white, in the middle: uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=FONT)
    ImageDraw.Draw(image).text((width / 2, height / 2), words, fill="black", font=font, anchor="mm")
    return np.asarray(image)


def unit_range(map: np.ndarray) -> np.ndarray:
    """Stretched to 0..1 by its own smallest and largest value; zeros where constant."""
    low, high = float(map.min()), float(map.max())
    return (map - low) / (high - low) if high > low else np.zeros_like(map)


def _maps(name: str, methods: Sequence[str], scenes: Sequence[Scene], *, work: Path) -> dict[str, np.ndarray]:
    """(len(scenes), SIZE, SIZE) of each method."""
    encoder = encoder_of(name, work)
    x = encoder.normalize(torch.from_numpy(np.stack([s.image for s in scenes])))
    explainers = {method: explainer(work, name, method, seed=0, steps=STEPS)[0] for method in methods}
    return {method: explain(encoder, x).numpy() for method, explain in explainers.items()}
