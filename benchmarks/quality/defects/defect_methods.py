"""Methods that find planted defects with a package: `nemu bank`, and the embedding and the masks without it.

    python -m benchmarks.defect_methods DEFECTS … --packages lite0.nemu mobilenetv2.nemu \\
        --peers peers.json --json benchmarks/results/defects.json

`bank` is the product.  The others ask the global embedding: an image's score is 1 − its cosine to the
nearest normal image, and its map is the mask (which does not know the bank: the control), or by how much
the cosine is raised by hiding a place (slow, so of a few images).
The rows of `latency` were timed in one interleaved run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common.estimate import groups
from benchmarks.common.interleave import interleave, latency_row
from benchmarks.common.markdown import records
from benchmarks.common.record import command, device_name, exits, meta, write_compact
from benchmarks.quality.defects.scores import GOOD, ProductImages, products, row
from runtime import Embedder, Explainer, fit_bank
from runtime.backends.onnxruntime import CellsBackend, OnnxRuntimeBackend
from runtime.backends.threads import thread_count
from runtime.package.folder import Package

PATCH, STEP = 32, 16
"""Pixels that are changed at once, and between two places."""
FEW = 3
"""Images of each kind that the slow method sees."""
MEANS = """
encoder: {encoder} | method: {method} | n: {seeds} | image AUROC: {image_auroc.mean:.3f} |
pixel AUROC: {pixel_auroc.mean:.3f} | PRO: {pro.mean:.3f}
"""
"""Means over products and seeds."""
Found = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""Scores (N,), maps (N, H, W), and what else is to be told."""


def bank(package: Package, product: ProductImages) -> Found:
    """`nemu bank` and `Explainer.against`, as they are."""
    made, _ = fit_bank(package, [(str(i), image) for i, image in enumerate(product.bank)])
    with Explainer(package, backend="onnxruntime") as explainer:
        watch = explainer.against(made)
    found = [watch(image) for image in product.images]
    alarms = np.array([one.is_anomalous for one in found])
    wrong = product.kinds != GOOD
    told = {"false_alarms": float(alarms[~wrong].mean()), "found": float(alarms[wrong].mean())}
    return np.array([one.score for one in found]), np.stack([one.map for one in found]), told


def mask(package: Package, product: ProductImages) -> Found:
    """The image's own mask: the control."""
    with Explainer(package, backend="onnxruntime") as explainer:
        normal, seen = explainer(product.bank), explainer(product.images)
    cosines = _unit(np.stack([e.embedding for e in seen])) @ _unit(np.stack([e.embedding for e in normal])).T
    return 1 - cosines.max(1), np.stack([e.mask for e in seen]), {}


def hidden(package: Package, product: ProductImages) -> Found:
    """By how much a place under the encoder's mean colour raises the cosine to the nearest normal image."""
    colour = np.round(255 * np.array(package.manifest.input.mean)).astype(np.uint8)
    height, width = product.images.shape[1:3]
    starts = [(y, x) for y in range(0, height - STEP, STEP) for x in range(0, width - STEP, STEP)]
    maps = np.zeros(product.images.shape[:3], np.float32)
    with Embedder(package, backend="onnxruntime") as embedder:
        normal = _unit(embedder(product.bank))
        cosines = _unit(embedder(product.images)) @ normal.T
        for image, near, seen in zip(product.images, cosines, maps, strict=True):
            changed = np.repeat(image[None], len(starts), axis=0)
            for one, (y, x) in zip(changed, starts, strict=True):
                one[y : y + PATCH, x : x + PATCH] = colour
            gains = _unit(embedder(changed)) @ normal[near.argmax()] - near.max()
            times = np.zeros_like(seen)
            for gain, (y, x) in zip(gains, starts, strict=True):
                seen[y : y + PATCH, x : x + PATCH] += gain
                times[y : y + PATCH, x : x + PATCH] += 1
            seen /= np.maximum(times, 1)
    return 1 - cosines.max(1), maps, {}


METHODS: dict[str, Callable[[Package, ProductImages], Found]] = {"bank": bank, "mask": mask, "hidden": hidden}


def latency(package: Package, product: ProductImages, *, rounds: int) -> list[dict[str, Any]]:
    """Encoder alone (and again, as a control), with local features, and with the bank's answer as well.

    On a machine that computes other things, medians tell of those; the tenth percentile (p10) does not.
    """
    made, _ = fit_bank(package, [(str(i), image) for i, image in enumerate(product.bank)])
    image = np.ascontiguousarray(product.images[0])
    alone, again = (OnnxRuntimeBackend(package, mask=False) for _ in "ab")
    whole, cells = OnnxRuntimeBackend(package), CellsBackend(package)
    calls = {
        "encoder": lambda: alone.embed(image[None]),
        "control": lambda: again.embed(image[None]),
        "encoder and mask": lambda: whole.run(image[None]),
        "encoder and cells": lambda: cells.run(image),
        "encoder, cells and bank": lambda: made.distances(cells.run(image)[1]).max(),
    }
    times = interleave(calls, rounds=rounds)
    about = {"encoder": _name(package), "device": device_name(), "threads": thread_count()}
    about |= {"rows": len(made.cells.rows), "grid": list(made.grid), "channels": len(made.cells.mean)}
    p10 = {name: float(np.percentile(column, 10)) for name, column in times.items()}
    return [
        {
            "variant": name,
            **about,
            **latency_row(column, times["encoder"]),
            "p10_ms": p10[name],
            "p10_ratio": p10[name] / p10["encoder"],
        }
        for name, column in times.items()
    ]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _name(package: Package) -> str:
    return package.manifest.encoder.id.removeprefix("timm/")


@exits
def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 with a message; the file is written after every product."""
    p = command("defect_methods", __doc__, json=False)
    p.add_argument("--json", type=Path, required=True)
    p.add_argument("defects", type=Path, nargs="+", help="folders of python -m benchmarks.defects")
    p.add_argument("--packages", type=Path, nargs="+", required=True)
    p.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    p.add_argument("--peers", type=Path, nargs="*", default=[], help="files whose rows are taken over")
    p.add_argument("--rounds", type=int, default=200, help="rounds of timing (%(default)s)")
    o = p.parse_args(argv)
    return _run(o)


def _run(o: argparse.Namespace) -> int:
    packages = [Package.open(path) for path in o.packages]
    peers = [json.loads(path.read_text()) for path in o.peers]
    rows = [one for peer in peers for one in peer["rows"]]
    content: dict[str, Any] = {"meta": meta(), "peers": [peer["meta"] for peer in peers], "rows": rows}
    for folder in o.defects:
        for product in tqdm(list(products(folder)), desc=folder.name):
            few = product.few(FEW)
            for package in packages:
                for name in o.methods:
                    of = few if name == "hidden" else product
                    scores, maps, told = METHODS[name](package, of)
                    about = {"method": name, "encoder": _name(package), "data": folder.name}
                    rows.append({**about, **row(of, scores, maps), **told})
            write_compact(o.json, content)
    content["latency"] = [one for p in packages for one in latency(p, product, rounds=o.rounds)]
    write_compact(o.json, content)
    print(records(groups(sorted(rows, key=itemgetter("encoder", "method")), "encoder", "method"), MEANS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
