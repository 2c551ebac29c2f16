"""What `python -m benchmarks.natural` computes: jobs whose results are kept in a file each."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.record import remembered, short_digest
from benchmarks.quality.metrics.robustness import randomised_copies
from benchmarks.quality.natural.methods import MASKS, NEMU, ORDER, OTHERS, OWN, explainer, settings, trained
from benchmarks.quality.natural.subject import RANDOM, Source, digest, encoder_of, evidence, subject_of
from benchmarks.quality.scoring import (
    ORDER_ONLY,
    TIMED_SEED,
    Counts,
    Row,
    Subject,
    Values,
    figures,
    maps_of,
    measured,
    robustness,
    seconds_per_image,
)
from train.machine import MOST_WORKERS

PARTS = ("train", "score", "baselines", "controls", "evidence", "timing")

CHEAP = Counts(images=120, faithfulness=120, sensitivity=20, draws=10, mprt=20, copies=5)
DEAR = {
    "relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
    "u_relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
    "occlusion": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=6, copies=1),
    "integrated_gradients": Counts(images=24, faithfulness=24, sensitivity=2, draws=10, mprt=10, copies=3),
    "expected_gradients": replace(CHEAP, sensitivity=2, mprt=10, copies=3),
    "optimised": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=0, copies=0),
}
"""How many composites each method is scored on; the rest: CHEAP."""
TIMED = 20
FEWEST_MPRT = 3
"""Images: a floor needs as many."""
DIGITS = 5
"""Digits that the figures of single images are rounded to."""


Options = argparse.Namespace
"""The command line, with the `source`, the `encoders` in it, and the options of `training`."""


def counts_of(options: Options, method: str) -> Counts:
    """How much a method is scored on."""
    most: int = options.images
    mprt = most if most >= FEWEST_MPRT else 0
    full = DEAR.get(method, CHEAP)
    return full.at_most(images=most, faithfulness=most, sensitivity=most, mprt=mprt)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One result, in a file of its own."""

    kind: str
    """`train`, `row`, `robustness`, `evidence` or `timing`; a part of `python -m benchmarks.toward`."""
    encoder: str
    method: str = NEMU
    seed: int = 0

    def file(self, work: Path, key: Any) -> Path:
        """Where its result is kept, which depends on all of the key."""
        method = "-".join(self.method.replace("×", "x").replace(",", "").split())
        return work / "parts" / f"{self.kind}-{self.encoder}-{method}-{self.seed}-{short_digest(key)}.json"


def jobs_of(options: Options, part: str) -> list[Job]:
    """The results of a part."""
    names, random = options.encoders, tuple(f"{name}{RANDOM}" for name in options.encoders)

    def own(kind: str, encoders: tuple[str, ...] = names, methods: tuple[str, ...] = (NEMU,)) -> list[Job]:
        every = itertools.product(encoders, methods, options.seeds)
        return [Job(kind=kind, encoder=name, method=method, seed=seed) for name, method, seed in every]

    def others(kind: str) -> list[Job]:
        every = itertools.product(names, options.methods)
        return [Job(kind=kind, encoder=name, method=method) for name, method in every]

    match part:
        case "train":
            return own("train")
        case "score":
            return own("row", methods=OWN)
        case "baselines":
            return others("row")
        case "controls":
            trained_on_random = own("train", random) + own("row", random)
            return trained_on_random + own("robustness") + others("robustness")
        case "timing":
            return own("timing") + others("timing")
        case _:
            return [Job(kind="evidence", encoder=name) for name in (*names, *random)]


def kept(options: Options, job: Job) -> Path:
    """The file of a job; its name holds a digest of all that the result depends on."""
    name = job.encoder
    key = {
        **asdict(job),
        "fingerprint": encoder_of(options.source, name).record.fingerprint,
        "settings": settings(options.source, name, job.method, seed=job.seed, options=options.training),
        "counts": asdict(counts_of(options, job.method)),
        "data": digest(options.source.data),
        "timed_on": device_name(options.source) if job.kind == "timing" else None,
    }
    return job.file(options.work, key)


def computed(options: Options, job: Job) -> str:
    """Compute a result, unless it is there; returns the name of the package that its method lacks, or ''."""
    try:
        remembered(kept(options, job), lambda: COMPUTE[job.kind](options, job))
    except ModuleNotFoundError as error:
        if job.kind == "train" or job.method in OWN:
            raise
        return str(error.name).partition(".")[0]
    return ""


def _train(options: Options, job: Job) -> Row:
    workers = min(MOST_WORKERS, max(1, (os.cpu_count() or 1) // options.jobs - 1))
    where = (options.source, options.work, job.encoder)
    run = trained(*where, seed=job.seed, options=options.training, workers=workers)
    return {"run": run.name}


def _evidence(options: Options, job: Job) -> Row:
    return evidence(options.source, job.encoder, options.images)


def _explainer(options: Options, job: Job) -> tuple[Any, dict[str, Any]]:
    return explainer(
        options.source, options.work, job.encoder, job.method,
        seed=job.seed, options=options.training, images=options.images,
    )  # fmt: skip


def _row(options: Options, job: Job) -> Row:
    explain, facts = _explainer(options, job)
    counts, seen = counts_of(options, job.method), subject_of(options.source, job.encoder, options.images)
    maps = maps_of(explain, seen.encoder, seen.x[: counts.images])
    values = measured(
        seen, maps, is_mask=job.method in MASKS, faithfulness=counts.faithfulness, seed=job.seed
    )
    if job.method == ORDER:
        values |= dict.fromkeys(ORDER_ONLY, ())
    return {**facts, **row_of(seen, values)}


def row_of(seen: Subject, values: Mapping[str, Values]) -> Row:
    """The figures, and those of every image."""
    each = {name: rounded(of) for name, of in values.items() if len(of)}
    return {**figures(seen, values), "values": each}


def rounded(values: Values) -> list[float | None]:
    """As JSON has them: null where a figure is undefined."""
    return [None if np.isnan(v) else round(float(v), DIGITS) for v in values]


def _robustness(options: Options, job: Job) -> Row:
    explain, _ = _explainer(options, job)
    counts, seen = counts_of(options, job.method), subject_of(options.source, job.encoder, options.images)
    x = seen.x[: counts.mprt]
    maps = maps_of(explain, seen.encoder, x) if len(x) else x[:, 0]
    copies = randomised_copies(seen.encoder)
    return robustness(seen, explain, maps, counts=counts, randomised=copies, seed=job.seed)


def _timing(options: Options, job: Job) -> Row:
    """Seconds an image, with a seed that scoring does not use: no remembered run of RELAX is timed."""
    seed = job.seed if job.method in OWN else TIMED_SEED + list(OTHERS).index(job.method)
    explain, _ = _explainer(options, replace(job, seed=seed))
    seen = subject_of(options.source, job.encoder, options.images)
    slow = job.method in DEAR
    timed = seconds_per_image(functools.partial(explain, seen.encoder), seen.x[-TIMED:], slow=slow)
    return {**timed, "timed_on": device_name(options.source)}


def device_name(source: Source) -> str:
    """Name of the GPU, or the kind of device."""
    return torch.cuda.get_device_name() if source.device == "cuda" else source.device


COMPUTE = {
    "train": _train,
    "row": _row,
    "robustness": _robustness,
    "evidence": _evidence,
    "timing": _timing,
}
"""The function that computes each kind of result."""
