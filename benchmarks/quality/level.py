"""Does a region keep what was asked, on images and with fills that the curve was not fitted with?

python -m benchmarks.level --masker masker.safetensors --images unseen/ --json benchmarks/results/level.json

The images (none that training saw) are dealt into two halves; each is asked by the curve of the other.
Fills: those of the fit (`export.package.level`), and what it did not see: each image's own mean colour,
another of the photographs, and noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.record import command, meta, write
from export.package.level import blurred, fit
from export.package.source import fitted
from runtime.level import level_for, share_above, share_for
from runtime.media.occlusion import kept, occlude
from runtime.media.sources import find_images
from train.checkpoint import load_nem, read_config
from train.nem import NEM

ASKED = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def fills(images: np.ndarray, mean: Sequence[float]) -> dict[str, np.ndarray]:
    """float (N, h, w, 3) or what is broadcast to it, in 0..1."""
    noise = np.random.default_rng(0).normal(np.asarray(mean), 0.226, images.shape)
    return {
        "fitted: mean colour": np.broadcast_to(np.asarray(mean), images.shape),
        "fitted: blur": np.stack([blurred(image) for image in images]) / 255,
        "own mean colour": np.broadcast_to(images.mean((1, 2), keepdims=True) / 255, images.shape),
        "photograph": np.roll(images, len(images) // 2 + 1, axis=0) / 255,
        "noise": noise.clip(0, 1),
    }


def score(nem: NEM, images: np.ndarray) -> dict[str, Any]:
    """Both halves; what is kept is by image, the centre by half."""
    size = nem.encoder.input

    @torch.inference_mode()
    def both(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embedding, mask = nem(nem.encoder.normalize(torch.from_numpy(batch)))
        return embedding.numpy(), mask.numpy()

    @torch.inference_mode()
    def embed(image: np.ndarray) -> np.ndarray:
        return nem.encoder(nem.encoder.normalize(torch.from_numpy(image)[None]))[0][0].numpy()

    outputs = [both(image[None]) for image in images]
    embedding, mask = (np.concatenate(column) for column in zip(*outputs, strict=True))
    shown = fills(images, size.mean)
    found = {name: np.zeros((len(images), len(ASKED))) for name in shown}
    areas = np.zeros((len(images), len(ASKED)))
    curves = []
    for half in (0, 1):
        this, other = slice(half, None, 2), range(1 - half, len(images), 2)
        curve = fit(embed, images[this], embedding[this], mask[this], mean=size.mean, source=f"half {half}")
        curves.append({"share": curve.share, "kept": curve.kept})
        centre = embedding[this].mean(axis=0)
        for i in other:
            for j, asked in enumerate(ASKED):
                region = mask[i] >= level_for(mask[i], share_for(curve, asked))
                areas[i, j] = region.mean()
                for name, fill in shown.items():
                    one = embed(occlude(images[i], region.astype(np.float32), fill[i]))
                    found[name][i, j] = kept(embedding[i], one, centre)
    return {
        "images": len(images),
        "mask_area": float(mask.mean()),
        "share_at_half": float(np.mean([share_above(m, 0.5) for m in mask])),
        "region_area": dict(zip(map(str, ASKED), areas.mean(axis=0).round(4).tolist(), strict=True)),
        "curves": curves,
        "rows": [_row(name, values) for name, values in found.items()],
    }


def _row(name: str, values: np.ndarray) -> dict[str, Any]:
    """values (N, ASKED)."""
    mean = values.mean(axis=0)
    return {
        "fill": name,
        "kept": dict(zip(map(str, ASKED), mean.round(4).tolist(), strict=True)),
        "worst": float(np.abs(mean - ASKED).max()),
        "worst_by_half": [float(np.abs(values[i::2].mean(axis=0) - ASKED).max()) for i in (1, 0)],
        "range_at_0.8": float(np.subtract(*np.quantile(values[:, ASKED.index(0.8)], (0.9, 0.1)))),
    }


def main() -> None:
    """Score each masker; its row is replaced in the file, others stay."""
    parser = command("level", __doc__)
    parser.add_argument("--masker", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="none that training saw")
    options = parser.parse_args()
    config = read_config(options.masker)
    nem = load_nem(options.masker)
    result = score(nem, fitted(find_images(options.images), nem.encoder.input))
    known = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    key = {"encoder": config.encoder.encoder, "area_weight": config.area_weight, "steps": config.steps}
    others = [row for row in known if any(row[k] != v for k, v in key.items())]
    write(options.json, {"meta": meta(), "rows": [*others, {**key, **result}]})
    for row in result["rows"]:
        print(f"{row['fill']:20} worst {row['worst']:.3f}  range at 0.8 {row['range_at_0.8']:.3f}")


if __name__ == "__main__":
    main()
