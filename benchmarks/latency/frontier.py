"""What a decoder costs and how well it explains: every decoder trained alike, scored scene by scene.

    python -m benchmarks.encoders digits patch
    python -m benchmarks.frontier --json benchmarks/results/frontier.json

Cost: each decoder fused with a ResNet-50 and a ViT-S at 224 pixels, onnxruntime float32, batch 1, beside
the encoder alone.  Quality: `python -m train` with that decoder and otherwise its defaults, on encoders
with a planted truth; differences to the authors' decoder are paired by scene.  Runs and scores are kept
under --work; a second run goes on where the first one stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.interleave import FEWEST_PAIRS, interleave, latency_row
from benchmarks.common.onnx_sessions import encoder_graph, fused_graph, random_encoder, run, session
from benchmarks.common.record import command, exits, kept, meta, write
from benchmarks.quality.__main__ import STEPS, WORK
from benchmarks.quality.explainers import encoder_of, explainer, settings, slug, subject
from benchmarks.quality.planted import encoders
from benchmarks.quality.scoring import Row, maps_of, measured
from benchmarks.quality.settings import DECODERS

AUTHORS = "unet"
REPEATED = ("lateral", AUTHORS)
"""Trained with every seed on the first encoder, and once on the others; all else once, on the first."""
MODELS = ("resnet50", "vit_small_patch16_224")
KINDS = ("standard", "small")
SCENES = 100
"""Test scenes of each kind that the rank is taken on, and of these,"""
FAITHFULNESS_SCENES = 40
"""the ones for insertion − deletion."""
MARGIN = 0.02
"""A decoder is not inferior if the whole interval of its difference lies above −MARGIN."""
METRICS = ("relevance_rank", "insertion_minus_deletion")


def costs(models: list[str], decoders: list[str], *, rounds: int, size: int = 224) -> list[Row]:
    """One row a model and variant: `encoder`, `control` (a second session of it), and every decoder."""
    threads = len(os.sched_getaffinity(0))
    rows = []
    for model in models:
        encoder = random_encoder(model, size)
        graphs = {decoder: fused_graph(encoder, decoder) for decoder in decoders}
        alone = encoder_graph(graphs[decoders[0]])
        images = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        sessions = {"encoder": alone, "control": alone, **graphs}
        calls = {name: run(session(graph, threads=threads), images) for name, graph in sessions.items()}
        times = interleave(calls, rounds=rounds)
        of = {"backend": "onnxruntime", "precision": "fp32", "model": model, "image_size": size, "batch": 1}
        rows += [
            {**of, "variant": name, "threads": threads, **latency_row(column, times["encoder"])}
            for name, column in times.items()
        ]
    return rows


def scores(work: Path, encoder: str, decoder: str, seed: int, kind: str, *, steps: int) -> Row:
    """Both metrics, scene by scene, of one training; kept under `work`."""
    planted = encoder_of(encoder, work)
    trained = settings(work, encoder, DECODERS[decoder], seed=seed, steps=steps)

    def compute() -> Row:
        explain, training = explainer(work, encoder, DECODERS[decoder], seed=seed, steps=steps)
        scenes = subject(planted, encoders.ENCODERS[encoder].truth, kind=kind, scenes=SCENES)
        maps = maps_of(explain, planted, scenes.x)
        values = measured(scenes, maps, is_mask=False, faithfulness=FAITHFULNESS_SCENES, seed=0)
        who = {"encoder": encoder, "decoder": decoder, "seed": seed, "kind": kind}
        figures = {metric: values[metric] for metric in METRICS}
        return {**who, **training, **figures, "mask_area": float(maps.mean())}

    key = [planted.record.fingerprint, trained, SCENES, FAITHFULNESS_SCENES]
    return kept(work / "frontier", slug(encoder, decoder, str(seed), kind), key, compute)


def compare(rows: list[Row], decoder: str, metric: str) -> Row:
    """Mean of `decoder`, and its difference to the authors' decoder, over the rows of one encoder and kind.

    The interval is a bootstrap over scenes (paired) and over seeds of training (drawn for each decoder on
    its own, since its runs are independent).  With one seed it is over scenes alone, and says so.
    """
    ours, theirs = (
        np.array([row[metric] for row in rows if row["decoder"] == name]) for name in (decoder, AUTHORS)
    )  # (seeds, scenes)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(4000):
        scenes = rng.integers(0, ours.shape[1], ours.shape[1])
        a, b = (x[rng.integers(0, len(x), len(x))][:, scenes].mean() for x in (ours, theirs))
        draws.append(a - b)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {
        "decoder": decoder,
        "metric": metric,
        "seeds": len(ours),
        "scenes": ours.shape[1],
        "mean": float(ours.mean()),
        "spread": float(ours.mean(axis=1).std(ddof=1)) if len(ours) > 1 else None,
        "difference": float(ours.mean() - theirs.mean()),
        "difference_ci": [float(low), float(high)],
        "not_inferior": bool(low > -MARGIN),
    }


def trainings(names: list[str], decoders: list[str], seeds: list[int]) -> Iterator[tuple[str, str, int]]:
    """Encoder, decoder and seed of everything that is trained."""
    for encoder in names:
        first = encoder == names[0]
        for decoder in decoders if first else [d for d in decoders if d in REPEATED]:
            for seed in seeds if first and decoder in REPEATED else seeds[:1]:
                yield encoder, decoder, seed


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = command("frontier", __doc__)
    p.add_argument("--encoders", nargs="+", default=["digits", "patch"], choices=list(encoders.ENCODERS))
    p.add_argument("--decoders", nargs="+", default=list(DECODERS), choices=list(DECODERS))
    p.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of `lateral` and `unet`"
    )
    p.add_argument("--steps", type=int, default=STEPS, help="steps of each training (%(default)s)")
    p.add_argument("--models", nargs="*", default=list(MODELS), help="timm models to time")
    p.add_argument("--rounds", type=int, default=FEWEST_PAIRS, help="rounds of timing (%(default)s)")
    p.add_argument("--work", type=Path, default=WORK, help="encoders, maskers and scores")
    o = p.parse_args()
    decoders = list(dict.fromkeys([*o.decoders, AUTHORS]))
    result: dict[str, Any] = {"meta": meta(), "rows": [], "scores": [], "comparisons": []}
    for encoder, decoder, seed in trainings(o.encoders, decoders, o.seeds):
        result["scores"] += [scores(o.work, encoder, decoder, seed, kind, steps=o.steps) for kind in KINDS]
    for encoder in o.encoders:
        for kind in KINDS:
            alike = [r for r in result["scores"] if (r["encoder"], r["kind"]) == (encoder, kind)]
            result["comparisons"] += [
                {"encoder": encoder, "kind": kind, **compare(alike, decoder, metric)}
                for decoder in dict.fromkeys(row["decoder"] for row in alike)
                for metric in METRICS
            ]
    result["rows"] = costs(o.models, decoders, rounds=o.rounds)
    write(o.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
