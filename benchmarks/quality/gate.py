"""What an embedding error means to a user: cosines and nearest neighbours, by precision and by plain noise.

    python -m benchmarks.gate --images FOLDER --json benchmarks/results/gate.json MASKER [MASKER=WEIGHTS …]

The limits in `runtime.package.parity` come from it.  torch computes each encoder in fp32, fp16 and bf16, and
random noise of a known size is added to its fp32 embeddings, in units of the median distance between
different images.  `widest_margin` says, where the nearest and the second nearest changed places, how much
farther the second was, in that unit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.record import command, finish
from export.graph.fuse import Fused, run_torch
from export.package.source import spread_over
from runtime.package.parity import LIMITS, distances, measure, median_distance
from train.checkpoint import load_nem

NOISE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def main() -> int:
    """Measure, print, write; returns 0."""
    p = command("gate", __doc__)
    p.add_argument("maskers", nargs="+", help="masker.safetensors, or that =WEIGHTS of its encoder")
    p.add_argument("--images", type=Path, required=True)
    p.add_argument("--most", type=int, default=200, help="images (default: %(default)s)")
    o = p.parse_args()
    rows = [row for masker in o.maskers for row in measured(masker, o.images, o.most)]
    return finish(o.json, rows)


def measured(named: str, folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """A row for each precision, and for each size of noise."""
    masker, _, weights = named.partition("=")
    nem = load_nem(Path(masker), weights=weights or None)
    size = nem.encoder.input
    images, _ = spread_over(folder, size, option="--images", most=most, expected="photographs")
    full, mask = run_torch(Fused(nem, precision="fp32"), images)
    rng = np.random.default_rng(0)
    unit = median_distance(full)
    for precision in ("fp16", "bf16"):
        yield _row(
            nem.encoder.record.id, precision, full, mask, *run_torch(Fused(nem, precision=precision), images)
        )
    for error in NOISE:
        noise = rng.normal(size=full.shape)
        noise *= error * unit / np.linalg.norm(noise, axis=1, keepdims=True)
        yield _row(nem.encoder.record.id, f"noise {error:g}", full, mask, full + noise, mask)


def _row(
    encoder: str, what: str, full: np.ndarray, mask: np.ndarray, embedding: np.ndarray, other: np.ndarray
) -> dict[str, Any]:
    parity = measure(
        embedding=embedding,
        mask=other,
        reference_embedding=full,
        reference_mask=mask,
        limits=LIMITS["fp16"],
    )
    truth = distances(full)
    changed = truth.argmin(axis=1) != distances(embedding).argmin(axis=1)
    nearest, second = np.sort(truth, axis=1)[:, :2].T
    return {
        "encoder": encoder,
        "what": what,
        "widest_margin": float(((second - nearest) / median_distance(full))[changed].max(initial=0.0)),
        **parity.to_json(),
    }


if __name__ == "__main__":
    sys.exit(main())
