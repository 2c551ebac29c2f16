"""Real encoders, real photographs: does the default explain an encoder that nobody tuned it on?

    python -m benchmarks.natural_data DEBS --out DATA
    python -m benchmarks.natural --data DATA --work WORK --json benchmarks/results/natural.json \\
        --encoder-weights tf_efficientnet_lite0=lite0.safetensors mobilenetv2_100=mobilenetv2.safetensors

Composites of objects and photographs that training never saw, with the object's pixels known.  Rows have
the keys of `benchmarks.quality`, and `values`, image by image, so that methods are compared in pairs.
Parts:

    train      the maskers, by `python -m train` with its defaults, once a seed
    score      the maskers
    baselines  every other method, and a mask optimised for each image (the limit of the objective)
    controls   the same training on the same network with random weights; maps under a randomised encoder
               and a noisy image (MPRT, sensitivity), of every method
    evidence   how far swapping the object or the photograph moves the embedding
    timing     seconds an image, one method after the other

Each result is a file under --work/parts and is not computed again.  Parts can be run one by one, also on
different machines if --work is copied: the JSON holds what there is, and without a part its keys are null.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.natural_methods import MASKS, NEMU, ORDER, OTHERS, OWN, explainer, settings, trained
from benchmarks.natural_subject import (
    RANDOM,
    SIZE,
    Source,
    digest,
    encoder_of,
    evidence,
    randomise,
    subject_of,
)
from benchmarks.natural_tables import KIND, paired
from benchmarks.record import meta, write
from benchmarks.robustness import randomised
from benchmarks.scoring import Counts, Row, Values, figures, maps_of, measured, robustness
from benchmarks.timing import seconds_per_image
from runtime.atomic import atomic_file
from runtime.errors import InputError, NemuError

TRAINING = ("steps", "area-weight", "batch-size", "precision")
"""Options that are passed on to `python -m train`."""
PARTS = ("train", "score", "baselines", "controls", "evidence", "timing")

CHEAP = Counts(images=120, faithfulness=120, sensitivity=20, draws=10, mprt=20, copies=5)
DEAR = {
    "relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
    "u_relax": Counts(images=12, faithfulness=12, sensitivity=0, draws=0, mprt=3, copies=1),
    "occlusion": replace(CHEAP, sensitivity=0, draws=0, mprt=6, copies=1),
    "integrated_gradients": replace(CHEAP, sensitivity=2, mprt=10, copies=3),
    "expected_gradients": replace(CHEAP, sensitivity=2, mprt=10, copies=3),
    "optimised": replace(CHEAP, sensitivity=0, draws=0, mprt=0, copies=0),
}
"""How many composites each method is scored on; the rest: CHEAP."""
TIMED = 20
RANDOMISED_SEEDS = (43, 44, 45, 46, 47)
ORDER_ONLY = ("relevance_mass", "complexity", "sparseness")
"""Null for an order without a level."""
NULLS = dict.fromkeys(
    (
        *("objective", "train_seconds", "sensitivity", "mprt_abs_rho", "mprt_floor"),
        *("seconds_per_image", "seconds_per_image_batched"),
    )
)
"""Of rows whose part was not run."""
FEWEST_MPRT = 3
"""Images: a floor needs as many."""
DIGITS = 5
"""Of the figures of single images."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run covers."""

    source: Source
    work: Path
    encoders: tuple[str, ...]
    methods: tuple[str, ...]
    """The baselines."""
    seeds: tuple[int, ...]
    training: tuple[tuple[str, str], ...]
    """Options of `python -m train`, beside its defaults."""
    images: int
    relax_images: int
    jobs: int

    def counts(self, method: str) -> Counts:
        most = self.relax_images if method in ("relax", "u_relax") else self.images
        full = DEAR.get(method, CHEAP)
        return replace(
            full,
            images=most,
            faithfulness=most,
            sensitivity=min(full.sensitivity, most),
            mprt=min(full.mprt, most) if most >= FEWEST_MPRT else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One result, in a file of its own."""

    kind: str
    """`train`, `row`, `robustness`, `evidence` or `timing`."""
    encoder: str
    method: str = NEMU
    seed: int = 0


def jobs_of(options: Options, part: str) -> list[Job]:
    """The results of a part."""
    names, random = options.encoders, tuple(f"{name}{RANDOM}" for name in options.encoders)

    def own(kind: str, encoders: tuple[str, ...], methods: tuple[str, ...]) -> Iterator[Job]:
        for name in encoders:
            for method in methods:
                for seed in options.seeds:
                    yield Job(kind=kind, encoder=name, method=method, seed=seed)

    def others(kind: str) -> Iterator[Job]:
        for name in names:
            for method in options.methods:
                yield Job(kind=kind, encoder=name, method=method)

    match part:
        case "train":
            return [*own("train", names, (NEMU,))]
        case "score":
            return [*own("row", names, OWN)]
        case "baselines":
            return [*others("row")]
        case "controls":
            random_jobs = [*own("train", random, (NEMU,)), *own("row", random, (NEMU,))]
            return [*random_jobs, *own("robustness", names, (NEMU,)), *others("robustness")]
        case "timing":
            return [*own("timing", names, (NEMU,)), *others("timing")]
        case _:
            return [Job(kind="evidence", encoder=name) for name in (*names, *random)]


def kept(options: Options, job: Job) -> Path:
    """The file of a job; its name holds a digest of all that the result depends on."""
    name, training = job.encoder, dict(options.training)
    key = {
        **asdict(job),
        "fingerprint": encoder_of(options.source, name).record.fingerprint,
        "settings": settings(options.source, name, job.method, seed=job.seed, options=training),
        "counts": asdict(options.counts(job.method)),
        "data": digest(options.source.data),
        "timed_on": device_name(options.source) if job.kind == "timing" else None,
    }
    short = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    return options.work / "parts" / f"{job.kind}-{name}-{job.method}-{job.seed}-{short}.json"


def result_of(options: Options, job: Job) -> dict[str, Any]:
    """Computed, or read if it was; `missing` and nothing else where a method's package is not installed."""
    file = kept(options, job)
    if file.exists():
        return json.loads(file.read_text())
    compute = {"row": _row, "robustness": _robustness, "timing": _timing}
    try:
        if job.kind == "train":
            run = trained(
                options.source, options.work, job.encoder, seed=job.seed, options=dict(options.training)
            )
            content: dict[str, Any] = {"run": run.name}
        elif job.kind == "evidence":
            content = evidence(options.source, job.encoder, options.images)
        else:
            content = compute[job.kind](options, job)
    except ModuleNotFoundError as error:
        if job.kind == "train" or job.method in OWN:
            raise
        return {"missing": error.name}
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, content)
    return content


def _explainer(options: Options, job: Job) -> tuple[Any, dict[str, Any]]:
    return explainer(
        options.source, options.work, job.encoder, job.method,
        seed=job.seed, options=dict(options.training), images=options.images,
    )  # fmt: skip


def _row(options: Options, job: Job) -> Row:
    explain, facts = _explainer(options, job)
    counts, seen = options.counts(job.method), subject_of(options.source, job.encoder, options.images)
    maps = maps_of(explain, seen.encoder, seen.x[: counts.images])
    values = measured(
        seen, maps, is_mask=job.method in MASKS, faithfulness=counts.faithfulness, seed=job.seed
    )
    if job.method == ORDER:
        values |= dict.fromkeys(ORDER_ONLY, ())
    return {
        **facts,
        **figures(seen, values),
        "values": {n: _rounded(of) for n, of in values.items() if len(of)},
    }


def _rounded(values: Values) -> list[float | None]:
    """As JSON has them: null where a figure is undefined."""
    return [None if np.isnan(v) else round(float(v), DIGITS) for v in values]


def _robustness(options: Options, job: Job) -> Row:
    explain, _ = _explainer(options, job)
    counts, seen = options.counts(job.method), subject_of(options.source, job.encoder, options.images)
    x = seen.x[: counts.mprt]
    maps = maps_of(explain, seen.encoder, x) if len(x) else x[:, 0]
    copies = _copies(options.source, job.encoder)
    return robustness(seen, explain, maps, counts=counts, randomised=copies, seed=job.seed)


def _timing(options: Options, job: Job) -> Row:
    explain, _ = _explainer(options, job)
    seen = subject_of(options.source, job.encoder, options.images)
    slow = job.method in DEAR
    timed = seconds_per_image(functools.partial(explain, seen.encoder), seen.x[-TIMED:], slow=slow)
    return {**timed, "timed_on": device_name(options.source)}


@functools.cache
def _copies(source: Source, name: str) -> list[Any]:
    return [randomised(encoder_of(source, name), seed=seed) for seed in RANDOMISED_SEEDS]


def device_name(source: Source) -> str:
    """Of the GPU, or the kind of device."""
    return torch.cuda.get_device_name() if source.device == "cuda" else source.device


def run(options: Options, part: str) -> list[str]:
    """Every result of a part; returns what could not be measured, and why."""
    missing = []
    jobs = jobs_of(options, part)
    for kind in dict.fromkeys(job.kind for job in jobs):  # a training before what is scored of it
        alike = [job for job in jobs if job.kind == kind]
        for job, result in zip(alike, _results(options, alike, f"{part}: {kind}"), strict=True):
            if result.keys() == {"missing"}:
                missing.append(f"{job.encoder} {job.method} ({kind}): {result['missing']} is not installed")
    return missing


def _results(options: Options, jobs: list[Job], title: str) -> list[dict[str, Any]]:
    """Of all jobs, in order, several at once if that was asked for; what is timed runs alone."""
    if options.jobs == 1 or jobs[0].kind == "timing":
        return [result_of(options, job) for job in tqdm(jobs, desc=title)]
    with ProcessPoolExecutor(
        options.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, (os.cpu_count() or 1) // options.jobs),),
    ) as pool:
        return list(tqdm(pool.map(functools.partial(result_of, options), jobs), desc=title, total=len(jobs)))


def merged(options: Options) -> dict[str, Any]:
    """Every result that is kept under `work`, as one."""
    rows, facts, chosen = [], {}, {}
    for name, _ in options.source.weights:
        moved = _there(options, Job(kind="evidence", encoder=name))
        facts[name] = {"fingerprint": encoder_of(options.source, name).record.fingerprint, **moved}
        for method in (*OWN, *options.methods):
            for seed in options.seeds if method in OWN else (0,):
                job = Job(kind="row", encoder=name, method=method, seed=seed)
                if not (row := _there(options, job)):
                    continue
                others = [_there(options, replace(job, kind=kind)) for kind in ("robustness", "timing")]
                who = {"encoder": name, "method": method, "seed": seed, "kind": KIND, "truth": "object"}
                values = row.pop("values")
                rows.append({**who, **NULLS, **row, **others[0], **others[1], "values": values})
                given = settings(options.source, name, method, seed=seed, options=dict(options.training))
                chosen[method] = {k: v for k, v in given.items() if k not in ("seed", "encoder")}
    return {
        "meta": {**meta(), "data": digest(options.source.data), "scored_on": device_name(options.source)},
        "encoders": facts,
        "settings": chosen,
        "paired": paired(rows),
        "rows": rows,
    }


def _there(options: Options, job: Job) -> dict[str, Any]:
    """A job's result, empty if there is none."""
    file = kept(options, job)
    return json.loads(file.read_text()) if file.exists() else {}


def write_compact(path: Path, content: dict[str, Any]) -> None:
    """JSON with a line for each key, and for each row: lists of numbers would be a line a number."""
    lines = []
    for name, value in content.items():
        if isinstance(value, list):
            inner = ",\n".join(f"  {json.dumps(one)}" for one in value)
            lines.append(f"{json.dumps(name)}: [\n{inner}\n]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    with atomic_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.natural", description=__doc__.partition("\n")[0])
    p.add_argument("--data", type=Path, required=True, help="what python -m benchmarks.natural_data made")
    p.add_argument("--work", type=Path, required=True, help="maskers and finished results")
    p.add_argument(
        "--encoder-weights", nargs="+", required=True, metavar="NAME=FILE", help="timm name, safetensors file"
    )
    p.add_argument("--json", type=Path, help="write all results that are there")
    p.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    p.add_argument("--methods", nargs="+", default=list(OTHERS), choices=OTHERS, help="of the baselines")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the maskers' training")
    p.add_argument("--images", type=int, default=CHEAP.images, help="composites (%(default)s)")
    p.add_argument("--relax-images", type=int, default=12, help="composites for RELAX (%(default)s)")
    p.add_argument("--size", type=int, default=SIZE, help="pixels (%(default)s)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--jobs", type=int, default=1, help="results computed at once, each in a process")
    t = p.add_argument_group("training (default: what python -m train does)")
    t.add_argument("--steps", help="optimiser steps")
    t.add_argument("--area-weight")
    t.add_argument("--batch-size")
    t.add_argument("--precision")
    return p.parse_args()


def options_of(o: argparse.Namespace) -> Options:
    """Raises InputError: weights that are not NAME=FILE, or no such file; a GPU that is not there."""
    pairs = [text.partition("=") for text in o.encoder_weights]
    for name, _, file in pairs:
        if not Path(file).is_file():
            raise InputError(
                f"--encoder-weights {name}={file}",
                expected="NAME=FILE, a timm name and a safetensors file",
                cure="e.g. mobilenetv2_100=mobilenetv2.safetensors",
            )
    if o.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda", expected="a GPU that PyTorch can use", cure="--device cpu")
    device = o.device if o.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    training = (
        (n, getattr(o, n.replace("-", "_"))) for n in ("steps", "area-weight", "batch-size", "precision")
    )
    names = tuple(name for name, _, _ in pairs)
    weights = [(name, Path(file)) for name, _, file in pairs]
    source = Source(data=o.data, weights=tuple(weights), device=device, size=o.size)
    for name in names:
        file = o.work / "encoders" / f"{name}{RANDOM}.safetensors"
        if "controls" in o.parts and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            randomise(source, name, file)
        if file.exists():
            weights.append((f"{name}{RANDOM}", file))
    return Options(
        source=replace(source, weights=tuple(weights)),
        work=o.work,
        encoders=names,
        methods=tuple(o.methods),
        seeds=tuple(o.seeds),
        training=tuple((n, v) for n, v in training if v is not None),
        images=o.images,
        relax_images=min(o.images, o.relax_images),
        jobs=o.jobs,
    )


def main() -> int:
    """Returns 0; 1 with a message, also where something could not be measured."""
    o = parsed()
    if o.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Lightning takes every GPU that it sees
    try:
        options = options_of(o)
        missing = [line for part in PARTS if part in o.parts for line in run(options, part)]
        if o.json:
            write_compact(o.json, {**merged(options), "missing": missing})
    except NemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for line in missing:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
