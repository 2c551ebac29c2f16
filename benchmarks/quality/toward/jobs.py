"""What `python -m benchmarks.toward` computes: jobs whose results are kept in a file each."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.onnx_sessions import graph_of, random_encoder, run, session
from benchmarks.common.record import device_name, remembered
from benchmarks.quality import maskers
from benchmarks.quality.natural.jobs import Job, row_of
from benchmarks.quality.natural.methods import NEMU, optimised
from benchmarks.quality.natural.subject import digest, encoder_of
from benchmarks.quality.scoring import maps_of, measured, seconds_per_image
from benchmarks.quality.toward.cost import THREADS, cost
from benchmarks.quality.toward.methods import METHODS
from benchmarks.quality.toward.planted import planted
from benchmarks.quality.toward.subject import (
    NULL,
    composites,
    first,
    levels,
    localised,
    logits,
    mixtures,
    price_toward,
    priced,
    quick,
    seen_by,
    shares,
    tasks,
)
from runtime.package.folder import sha256_file
from train.checkpoint import load_nem, read_config
from train.nem import NEM
from train.run_folder import MASKER

PARTS = ("targets", "mixtures", "self", "optimum", "cost", "baselines", "timing", "planted")
TARGET, PLAIN = "with targets", "without targets"
"""Kinds of maskers."""
OURS, CONTROL = NEMU, "nemu, ignoring the target"
RANDOM_WEIGHTS = "resnet50"
"""A model of which only the cost is measured."""
SELF = ("relevance_rank", "insertion_minus_deletion", "relevance_mass")
TIMED, CHEAP_IMAGES = 5, 24
"""Images that the time is taken on, and that the baselines with few passes are."""
PLANTED_SEEDS = (0, 1, 2)

Row = dict[str, Any]
Runs = tuple[tuple[str, int, Path], ...]
"""Encoder, seed, the folder of a finished training."""


Options = argparse.Namespace
"""The command line, with the `source`; maskers with targets are `runs`, those without `plain`."""


def jobs_of(options: Options, part: str) -> list[Job]:
    """The results of a part."""
    names = [name for name, _ in options.source.weights]
    ours = [Job(kind=part, encoder=name, seed=seed) for name, seed, _ in options.runs]
    seeds = {name: seed for name, seed, _ in reversed(options.runs)}  # the first of each
    match part:
        case "targets" | "mixtures":
            return ours
        case "self":
            return [
                Job(kind=part, encoder=name, seed=seed, method=kind)
                for kind, runs in ((TARGET, options.runs), (PLAIN, options.plain))
                for name, seed, _ in runs
            ]
        case "baselines":
            others = [Job(kind=part, encoder=n, method=m) for n in names for m in options.methods]
            return ours + others
        case "cost":
            return [Job(kind=part, encoder=name) for name in (*names, RANDOM_WEIGHTS)]
        case "planted":
            return [Job(kind=part, encoder="digits", seed=seed) for seed in PLANTED_SEEDS]
        case _:
            return [Job(kind=part, encoder=name, seed=seeds[name]) for name in names if name in seeds]


def kept(options: Options, job: Job) -> Path:
    """The file of a job; its name holds a digest of all that the result depends on."""
    key: dict[str, Any] = asdict(job)
    if job.kind == "planted":
        key |= {"steps": options.planted_steps}
        key["encoders"] = [sha256_file(p) for p in sorted(options.work.glob("encoders/*.safetensors"))]
    elif job.encoder != RANDOM_WEIGHTS:
        key |= {"fingerprint": encoder_of(options.source, job.encoder).record.fingerprint}
        key |= {"data": digest(options.source.data), "images": options.images}
    if job.kind in ("cost", "timing"):
        key |= {"device": device_name(), "methods": options.methods if job.kind == "timing" else ()}
    if job.kind == "baselines":
        of = METHODS[job.method].settings if job.method in METHODS else {}
        key |= {"pictures": _pictures(options, job.method), "settings": of}
    if job.kind == "self":
        key |= {"faithful": options.faithful_images}
    if job.kind == "optimum":
        key |= {"optimum": [options.optimum_images, options.optimum_steps]}
    if job.method in (OURS, TARGET, PLAIN) and job.kind not in ("cost", "planted"):
        key["masker"] = sha256_file(_masker(options, job))
    return job.file(options.work, key)


def result_of(options: Options, job: Job) -> list[Row]:
    """Rows of a job, which are read if they were computed before."""
    found = remembered(kept(options, job), lambda: {"rows": COMPUTE[job.kind](options, job)})
    rows: list[Row] = found["rows"]
    return rows


def _pictures(options: Options, method: str) -> int:
    dear = method in METHODS and METHODS[method].dear
    return options.dear_images if dear else min(CHEAP_IMAGES, options.images)


def _masker(options: Options, job: Job) -> Path:
    runs = options.plain if job.method == PLAIN else options.runs
    folders: dict[tuple[str, int], Path] = {(name, seed): folder for name, seed, folder in runs}
    return folders[job.encoder, job.seed] / MASKER


def _whole(options: Options, job: Job) -> NEM:
    return load_nem(_masker(options, job), encoder=encoder_of(options.source, job.encoder))


def _nem(options: Options, job: Job) -> NEM:
    """The masker of a job, on the encoder as training runs it."""
    nem = _whole(options, job)
    return NEM(quick(options.source, job.encoder), nem.masker).eval()


def _targets(options: Options, job: Job) -> list[Row]:
    asked = composites(options.source, job.encoder, options.images)
    masks = {name: of.sigmoid() for name, of in logits(_nem(options, job), asked).items()}
    return [{"encoder": job.encoder, "seed": job.seed, **one} for one in levels(masks, asked.regions)]


def _mixtures(options: Options, job: Job) -> list[Row]:
    asked = mixtures(options.source, job.encoder, options.images)
    masks = {name: of.sigmoid() for name, of in logits(_nem(options, job), asked).items()}
    who = {"encoder": job.encoder, "method": OURS, "seed": job.seed}
    return [{**who, **one} for one in shares(masks, asked.regions)]


def _optimum(options: Options, job: Job) -> list[Row]:
    nem, config = _nem(options, job), read_config(_masker(options, job))
    asked = first(mixtures(options.source, job.encoder, options.images), options.optimum_images)
    price = price_toward(nem, config, priced(options.source, job.encoder), asked.centre)
    masks = {
        name: optimised(
            nem.encoder,
            asked.x,
            centre=asked.centre,
            area_weight=price,
            objective=config.objective,
            fill=config.fill,
            seed=0,
            steps=options.optimum_steps,
            target=asked.targets[name],
        )
        for name in ("u", "v")
    }
    who = {"encoder": job.encoder, "method": "optimum", "seed": 0, "steps": options.optimum_steps}
    return [{**who, **one} for one in shares(masks, asked.regions)]


def _self(options: Options, job: Job) -> list[Row]:
    seen = seen_by(options.source, job.encoder, options.images)
    explain = functools.partial(maskers.mask, _nem(options, job).masker)
    maps = maps_of(explain, seen.encoder, seen.x)
    values = measured(seen, maps, is_mask=False, faithfulness=options.faithful_images, seed=0)
    found = row_of(seen, values)
    found["values"] = {name: found["values"][name] for name in SELF}
    return [{"encoder": job.encoder, "seed": job.seed, "masker": job.method, **found}]


def _baselines(options: Options, job: Job) -> list[Row]:
    """Rows of every method; for ours also the mask without a target."""
    where = (options.source, job.encoder, options.images)
    found = tasks(composites(*where), mixtures(*where), _pictures(options, job.method))
    who = {"encoder": job.encoder, "seed": job.seed}
    if job.method == OURS:
        nem = _nem(options, job)
        rows = []
        for task, (asked, target, regions) in found.items():
            for method, of in zip((OURS, CONTROL), (target, NULL), strict=True):
                one = logits(nem, asked)[of]
                rows.append({**who, "method": method, "task": task, **localised(one.sigmoid(), regions, one)})
        return rows
    explain, encoder = METHODS[job.method].explain, quick(options.source, job.encoder)
    maps: dict[str, list[torch.Tensor]] = {task: [] for task in found}
    for i in range(len(found["same object"][0].x)):
        for group in (("same object",), ("mixture, u", "mixture, v")):  # one image, all its targets at once
            asked = found[group[0]][0]
            q = torch.stack([asked.targets[found[task][1]][i] for task in group])
            of_image = explain(encoder, asked.x[i], q, centre=asked.centre, seed=i)
            for task, map in zip(group, of_image, strict=True):
                maps[task].append(map)
    return [
        {**who, "method": job.method, "task": task, **localised(torch.stack(maps[task]), regions)}
        for task, (_, _, regions) in found.items()
    ]


def _timing(options: Options, job: Job) -> list[Row]:
    """Seconds an image toward one target, one method after the other in this process."""
    asked = first(composites(options.source, job.encoder, options.images), TIMED)
    nem, q = _nem(options, job), asked.targets["same object"]
    side = nem.encoder.input
    uint8 = torch.zeros(1, side.height, side.width, 3, dtype=torch.uint8).numpy()
    graph = session(graph_of(_whole(options, job), toward=True), threads=THREADS)
    onnx = run(graph, uint8, q[:1].cpu().numpy())

    def ours(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return nem(x, q[: len(x)])[1]

    def other(name: str, x: torch.Tensor) -> torch.Tensor:
        explain = METHODS[name].explain
        return torch.cat([explain(nem.encoder, one, q[:1], centre=asked.centre) for one in x])

    def timed(name: str, explain: Callable[[torch.Tensor], Any], *, slow: bool) -> Row:
        seconds = seconds_per_image(explain, asked.x, slow=slow)["seconds_per_image"]
        who = {"encoder": job.encoder, "method": name, "threads": THREADS}
        return {**who, "seconds_per_image": seconds}

    rows = [
        timed("nemu, onnxruntime", lambda x: [onnx() for _ in x], slow=False),
        timed("nemu, torch", ours, slow=False),
    ]
    for name in options.methods:
        rows.append(timed(name, functools.partial(other, name), slow=METHODS[name].dear))
    best, ours_torch = (one["seconds_per_image"] for one in rows[:2])
    for one in rows:
        one |= {"ratio_onnxruntime": one["seconds_per_image"] / best}
        one |= {"ratio_torch": one["seconds_per_image"] / ours_torch}
    return rows


def _cost(options: Options, job: Job) -> list[Row]:
    random = job.encoder == RANDOM_WEIGHTS
    size = options.source.size
    encoder = random_encoder(job.encoder, size) if random else encoder_of(options.source, job.encoder)
    return cost(encoder, job.encoder)


def _planted(options: Options, job: Job) -> list[Row]:
    return planted(options.work, seed=job.seed, steps=options.planted_steps)


COMPUTE: dict[str, Callable[[Options, Job], list[Row]]] = {
    "targets": _targets,
    "mixtures": _mixtures,
    "self": _self,
    "optimum": _optimum,
    "cost": _cost,
    "baselines": _baselines,
    "timing": _timing,
    "planted": _planted,
}
"""The function that computes each part."""
