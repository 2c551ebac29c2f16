"""How near a mask is to what its code gives back, and how many bytes that takes.

python -m benchmarks.mask_code one.nemu other.nemu --images unseen/ --json benchmarks/results/mask_code.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.record import command, finish
from runtime import Explainer
from runtime.index.code import decode_mask, encode_mask
from runtime.index.diff import iou
from runtime.media.sources import find_images


def measured(package: Path, images: list[Path]) -> dict[str, Any]:
    """A row of the table: the masks of one package."""
    ious, differences, sizes, seconds = [], [], [], []
    with Explainer(package) as explainer:
        for image in images:
            mask = explainer(image).graph_mask
            began = time.perf_counter()
            code = encode_mask(mask)
            seconds.append(time.perf_counter() - began)
            decoded = decode_mask(code)
            ious.append(iou(mask > 0.5, decoded > 0.5))
            differences.append(float(np.abs(mask - decoded).mean()))
            sizes.append(len(code))
        encoder = explainer.manifest.encoder.id
    return {
        "encoder": encoder,
        "embedding_id": explainer.embedding_id,
        "grid": list(mask.shape),
        "n": len(images),
        "iou_mean": float(np.mean(ious)),
        "iou_least": min(ious),
        "iou_below_0.95": len([one for one in ious if one < 0.95]),
        "mean_difference": float(np.mean(differences)),
        "largest_mean_difference": max(differences),
        "bytes_mean": float(np.mean(sizes)),
        "bytes_most": max(sizes),
        "encode_median_ms": 1e3 * float(np.median(seconds)),
    }


def main(argv: list[str] | None = None) -> None:
    parser = command("mask_code", __doc__)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True, help="photographs that training did not see")
    options = parser.parse_args(argv)
    images = find_images(options.images)
    rows = [measured(package, images) for package in options.packages]
    finish(options.json, rows)


if __name__ == "__main__":
    main()
