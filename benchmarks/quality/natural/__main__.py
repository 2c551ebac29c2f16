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

import functools
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.common.record import command, exits, meta, write_compact
from benchmarks.quality.natural.jobs import (
    CHEAP,
    PARTS,
    Job,
    Options,
    computed,
    device_name,
    jobs_of,
    kept,
)
from benchmarks.quality.natural.methods import OTHERS, OWN, settings
from benchmarks.quality.natural.natural_tables import KIND, paired
from benchmarks.quality.natural.subject import RANDOM, SIZE, Source, digest, encoder_of, randomise, weights_of
from runtime.errors import InputError

TRAINING = ("steps", "area-weight", "batch-size", "precision")
"""Options that are passed on to `python -m train`."""
NULLS = dict.fromkeys(
    (
        *("objective", "train_seconds", "sensitivity", "mprt_abs_rho", "mprt_floor"),
        *("seconds_per_image", "seconds_per_image_batched"),
    )
)
"""Keys that are null in rows whose part was not run."""


def run(options: Options, part: str) -> list[str]:
    """Compute every result of a part; returns what could not be measured, and why."""
    missing, jobs = [], jobs_of(options, part)
    for kind in dict.fromkeys(job.kind for job in jobs):  # a training before what is scored of it
        alike = [job for job in jobs if job.kind == kind]
        for job, package in zip(alike, _run(options, alike, f"{part}: {kind}"), strict=True):
            if package:
                missing.append(f"{job.encoder} {job.method} ({kind}): {package} is not installed")
    return missing


def _run(options: Options, jobs: list[Job], title: str) -> list[str]:
    """Compute jobs in order; several run at once if asked for, but a timed job runs on its own.

    Returns:
        For each job the package that it lacks; empty if it was computed.
    """
    compute, bar = functools.partial(computed, options), functools.partial(tqdm, desc=title, total=len(jobs))
    if options.jobs == 1 or jobs[0].kind == "timing":
        return list(bar(map(compute, jobs)))
    with ProcessPoolExecutor(
        options.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, (os.cpu_count() or 1) // options.jobs),),
    ) as pool:
        return list(bar(pool.map(compute, jobs)))


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
                given = settings(options.source, name, method, seed=seed, options=options.training)
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


def parsed() -> Options:
    """The command line; `training` has the options that are passed on to `python -m train`."""
    p = command("natural", __doc__, json=False)
    p.add_argument("--data", type=Path, required=True, help="what python -m benchmarks.natural_data made")
    p.add_argument("--work", type=Path, required=True, help="maskers and finished results")
    p.add_argument(
        "--encoder-weights", nargs="+", required=True, metavar="NAME=FILE", help="timm name, safetensors file"
    )
    p.add_argument("--json", type=Path, help="write all results that are there")
    p.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    p.add_argument("--methods", nargs="+", default=list(OTHERS), choices=OTHERS, help="baselines to run")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of the maskers")
    p.add_argument("--images", type=int, default=CHEAP.images, help="composites (%(default)s)")
    p.add_argument("--size", type=int, default=SIZE, help="pixels (%(default)s)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--jobs", type=int, default=1, help="results computed at once, each in a process")
    training = p.add_argument_group("training (default: what python -m train does)")
    for name in TRAINING:
        training.add_argument(f"--{name}")
    options = p.parse_args()
    given = {name: getattr(options, name.replace("-", "_")) for name in TRAINING}
    options.training = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    return options


def add_source(o: Options) -> None:
    """Raises InputError: weights that are not NAME=FILE, or no such file; a GPU that is not there."""
    given = weights_of(o.encoder_weights)
    if o.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda", expected="a GPU that PyTorch can use", cure="--device cpu")
    device = o.device if o.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    o.encoders, weights = tuple(name for name, _ in given), list(given)
    source = Source(data=o.data, weights=given, device=device, size=o.size)
    for name in o.encoders:
        file = o.work / "encoders" / f"{name}{RANDOM}.safetensors"
        if "controls" in o.parts and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            randomise(source, name, file)
        if file.exists():
            weights.append((f"{name}{RANDOM}", file))
    o.source = replace(source, weights=tuple(weights))


@exits
def main() -> int:
    """Returns 0; 1 with a message, also where something could not be measured."""
    options = parsed()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Lightning takes every GPU that it sees
    add_source(options)
    missing = [line for part in PARTS if part in options.parts for line in run(options, part)]
    if options.json:
        write_compact(options.json, {**merged(options), "missing": missing})
    for line in missing:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
