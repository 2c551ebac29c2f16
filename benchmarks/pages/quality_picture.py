"""The explanations themselves: the same scenes on several encoders, one column a method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.__main__ import STEPS
from benchmarks.quality.explainers import FIRST_SCENE, encoder_of, explainer
from benchmarks.quality.planted import encoders
from benchmarks.quality.planted.world import Scene, scene
from runtime.media.overlay import heat

COLUMNS = {
    "nemu": "nemu",
    "relax": "RELAX",
    "occlusion": "occlusion",
    "integrated_gradients": "Integr. Grad.",
    "gradient_shap": "GradientSHAP",
    "saliency": "saliency",
    "lafam": "LaFAM",
}
ENCODERS = ("digits", "red", "patch")
SHOWN = range(FIRST_SCENE, FIRST_SCENE + 4)
"""Test scenes: the first that are measured, not the best."""


def draw(out: Path, names: Collection[str], methods: Collection[str], *, work: Path) -> None:
    """Write one figure with those of ENCODERS and COLUMNS that are named.

    Maskers (seed 0) that are not there are trained; a RELAX map takes 3001 passes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [method for method in COLUMNS if method in methods]
    rows = sheet([name for name in ENCODERS if name in names], shown, work=work)
    titles = ["scene", "truth", *(COLUMNS[method] for method in shown)]
    size = (1.6 * len(titles), 1.6 * len(rows))
    figure, panels = pyplot.subplots(
        len(rows), len(titles), figsize=size, squeeze=False, layout="constrained"
    )
    for title, panel in zip(titles, panels[0], strict=True):
        panel.set_title(title)
    for (label, cells), line in zip(rows, panels, strict=True):
        line[0].set_ylabel(label)
        for cell, panel in zip(cells, line, strict=True):
            panel.imshow(cell, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def sheet(names: Sequence[str], methods: Sequence[str], *, work: Path) -> list[tuple[str, list[np.ndarray]]]:
    """A line for each scene and encoder: its name; the scene, the truth and each method, uint8 (H, W, 3)."""
    scenes = [scene(i, split="test") for i in SHOWN]
    maps = {name: _maps(name, methods, scenes, work=work) for name in names}
    rows = []
    for i, one in enumerate(scenes):
        for name, of in maps.items():
            region = np.any([one.regions[factor] for factor in encoders.ENCODERS[name].truth], axis=0)
            # the level of a mask means something: it is drawn on the fixed scale 0..1
            cells = [heat(of[m][i] if m == "nemu" else unit_range(of[m][i])) for m in methods]
            rows.append((name, [one.image, heat(region.astype(float)), *cells]))
    return rows


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
