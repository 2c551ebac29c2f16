"""Why do two images match?  Pairs of demo scenes with one digit on two photographs, through `compare`.

    python -m benchmarks.matches demo/out/digits/digits.nemu --json benchmarks/results/matches.json

Of each pair: the similarity, the same when only what the masks keep survives, and the masks on the digit and
off it.  As a control, the same with the two masks exchanged: the other image's mask keeps the wrong pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.estimate import estimate
from benchmarks.common.record import command, finish
from demo.photographs import inside_and_outside
from demo.world import Scene, scene
from runtime.explainer import Explainer
from runtime.media.occlusion import cosine, occlude


def main() -> int:
    """Measure, print, write; returns 0."""
    p = command("matches", __doc__)
    p.add_argument("package", type=Path, help="made by python -m demo.digits")
    p.add_argument("--pairs", type=int, default=200, help="(default: %(default)s)")
    o = p.parse_args()
    row: dict[str, Any] = {}
    with Explainer(o.package) as explainer:
        found = [measure(explainer, a, b) for a, b in pairs(o.pairs)]
        for key in found[0]:
            figure = estimate([one[key] for one in found])
            row |= {key: figure.mean, f"{key}_error": figure.error}
        share = np.array([one["kept_of_similarity"] for one in found])
        row |= {
            "masker": explainer.manifest.masker.architecture,
            "objective": explainer.manifest.masker.objective,
            "pairs_at_least_0.9": float((share >= 0.9).mean()),
            "n": len(found),
        }
    return finish(o.json, [row])


def pairs(count: int) -> list[tuple[Scene, Scene]]:
    """Test scenes, each used once, that show one digit on two photographs."""
    waiting: dict[int, list[Scene]] = {}
    found: list[tuple[Scene, Scene]] = []
    index = 0
    while len(found) < count:
        new = scene(index, split="test")
        index += 1
        others = waiting.setdefault(new.digit, [])
        match = next((other for other in others if other.photograph != new.photograph), None)
        if match is None:
            others.append(new)
        else:
            others.remove(match)
            found.append((match, new))
    return found


def measure(explainer: Explainer, a: Scene, b: Scene) -> dict[str, float]:
    """One pair."""
    found = explainer.compare(a.image, b.image)
    on, off = inside_and_outside([a.mask, b.mask], [found.a.mask, found.b.mask])
    mean = explainer.manifest.input.mean
    exchanged = explainer(
        [occlude(a.image, found.b.graph_mask, mean), occlude(b.image, found.a.graph_mask, mean)]
    )
    return {
        "similarity": found.similarity,
        "kept_similarity": found.kept_similarity,
        "kept_of_similarity": found.kept_similarity / found.similarity,
        "exchanged_similarity": cosine(exchanged[0].embedding, exchanged[1].embedding),
        "fidelity": float(np.mean([found.a.fidelity, found.b.fidelity])),
        "mask_on_digit": on,
        "mask_off_digit": off,
    }


if __name__ == "__main__":
    sys.exit(main())
