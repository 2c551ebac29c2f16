"""Do explanations find what an embedding depends on?  Every method, on encoders with a planted truth.

    python -m benchmarks.encoders
    python -m benchmarks.quality --json benchmarks/results/quality.json

One flat row per (encoder, method, seed, kind of scene).  Maskers are trained by `python -m train` on
scenes that neither encoders' nor maskers' test scenes share a photograph, a digit or a texture with.
Rows are kept under --work as they are finished; a second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from benchmarks.common.record import command, exits, kept, meta, write
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.explainers import encoder_of, explainer, settings, slug, subject
from benchmarks.quality.metrics.robustness import randomised_copies
from benchmarks.quality.needed import CELL, COARSE, shares
from benchmarks.quality.planted import encoders
from benchmarks.quality.planted.world import KINDS
from benchmarks.quality.scoring import ORDER_ONLY, TIMED_SEED, Counts, Row, score, seconds_per_image
from benchmarks.quality.settings import ABLATION, METHODS, SETTINGS, seeds_of

WORK = Path("benchmarks/out")
STEPS = 300

CHEAP = Counts(images=200, faithfulness=40, sensitivity=20, draws=30, mprt=20, copies=5)
COUNTS = {
    "integrated_gradients": Counts(images=60, faithfulness=40, sensitivity=2, draws=10, mprt=10, copies=3),
    "occlusion": Counts(images=30, faithfulness=30, sensitivity=0, draws=0, mprt=6, copies=1),
    "relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
    "u_relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
}
"""How many scenes each method is scored on: one RELAX map costs 3001 passes.  The rest: CHEAP."""
OTHER_KINDS = 100
"""Scenes of the kinds other than standard, for methods that are cheap."""
NEEDED_SCENES = 3


Options = argparse.Namespace
"""The command line, whose `methods` are those of each encoder."""


def counts_of(options: Options, method: str, kind: str) -> Counts:
    """How much a method is scored on a kind of scene."""
    full = COUNTS.get(method, CHEAP)
    if kind != "standard":
        full = Counts(images=OTHER_KINDS, faithfulness=0, sensitivity=0, draws=0, mprt=0, copies=0)
    return few(full) if options.quick else full


def few(full: Counts) -> Counts:
    """Enough to see that everything runs."""
    return full.at_most(images=4, faithfulness=2, sensitivity=1, draws=2, mprt=3, copies=2)


def rows(options: Options) -> list[Row]:
    """Every row of a run, new or kept."""
    jobs = [
        (encoder, method, seed, kind)
        for encoder, methods in options.methods.items()
        for method in methods
        for seed in seeds_of(encoder, method, options.seeds)
        for kind in options.kinds
        if kind == "standard" or method not in COUNTS
    ]
    return [_row(options, *job) for job in tqdm(jobs, desc="quality")]


def _row(options: Options, name: str, method: str, seed: int, kind: str) -> Row:
    encoder, counts = encoder_of(name, options.work), counts_of(options, method, kind)
    who = {"encoder": name, "method": method, "seed": seed, "kind": kind}
    key = {
        **who,
        "fingerprint": encoder.record.fingerprint,
        "settings": settings(options.work, name, method, seed=seed, steps=options.steps),
        "counts": asdict(counts),
    }
    truth = encoders.ENCODERS[name].truth

    def compute() -> Row:
        explain, trained = explainer(
            options.work, name, method, seed=seed, steps=options.steps, quick=options.quick
        )
        figures = score(
            subject(encoder, truth, kind=kind, scenes=counts.images),
            explain,
            counts=counts,
            is_mask=method in SETTINGS and method != "ranking",
            randomised=randomised_copies(encoder),
            seed=seed,
        )
        if method == "ranking":
            figures |= dict.fromkeys(ORDER_ONLY)
        unknown = {"objective": None, "truth": "+".join(truth), "train_seconds": None}
        return {**who, **unknown, **trained, **figures}

    return kept(options.work / "rows", slug(name, method, str(seed), kind), key, compute)


def facts(options: Options, name: str) -> Row:
    """What is known of an encoder: its truth, its evidence by intervention, and how much it needs."""
    record = json.loads((options.work / "encoders" / f"{name}.json").read_text())
    encoder = encoder_of(name, options.work)
    scenes, cell = (1, COARSE) if options.quick else (NEEDED_SCENES, CELL)

    def compute() -> Row:
        seen = subject(encoder, encoders.ENCODERS[name].truth, kind="standard", scenes=scenes)
        return {**shares(seen, scenes, cell=cell), "needed_scenes": scenes}

    fingerprint = encoder.record.fingerprint
    return {
        **{n: record[n] for n in ("truth", "steps", "seed", "train_seconds", "test_accuracy", "evidence")},
        "fingerprint": fingerprint,
        "command": f"python -m benchmarks.encoders {name}",
        **kept(options.work / "rows", slug(name, "needed"), [fingerprint, scenes, cell], compute),
    }


def timed(options: Options, done: list[Row]) -> None:
    """Add seconds per image to every row: all methods on the same scenes, in this process, one by one."""
    measured: dict[tuple[str, str], Row] = {}
    for row in tqdm(done, desc="timing"):
        name, method = row["encoder"], row["method"]
        if (name, method) not in measured:
            encoder = encoder_of(name, options.work)
            seed = options.seeds[0] if method in SETTINGS else TIMED_SEED + list(BASELINES).index(method)
            explain, _ = explainer(
                options.work, name, method, seed=seed, steps=options.steps, quick=options.quick
            )
            images = subject(encoder, ("red",), kind="standard", scenes=20)
            call = functools.partial(explain, encoder)
            measured[name, method] = seconds_per_image(call, images.x, slow=method in COUNTS)
        row |= measured[name, method]


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = command("quality", __doc__)
    p.add_argument("--encoders", nargs="+", default=list(METHODS), choices=list(METHODS))
    p.add_argument("--methods", nargs="+", help="`ablation`, or names; default: METHODS of settings.py")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of the maskers")
    p.add_argument("--steps", type=int, default=STEPS, help="training steps of each masker (%(default)s)")
    p.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of scenes")
    p.add_argument("--work", type=Path, default=WORK, help="encoders, maskers and finished rows")
    p.add_argument("--quick", action="store_true", help="a few scenes a method: does everything run?")
    p.add_argument("--no-timing", action="store_true", help="leave seconds per image null")
    options = p.parse_args()
    methods = ABLATION if options.methods == ["ablation"] else options.methods
    if unknown := [m for m in methods or () if m not in SETTINGS and m not in BASELINES]:
        p.error(f"no method {', '.join(unknown)}; there are {', '.join([*SETTINGS, *BASELINES])}")
    options.methods = {name: methods or METHODS[name] for name in options.encoders}
    done = rows(options)
    if not options.no_timing:
        timed(options, done)
    ran = {row["method"] for row in done}
    chosen = {
        **{name: list(given) for name, given in SETTINGS.items() if name in ran},
        **{name: baseline.settings for name, baseline in BASELINES.items() if name in ran},
    }
    known = {name: facts(options, name) for name in options.methods}
    write(options.json, {"meta": meta(), "encoders": known, "settings": chosen, "rows": done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
