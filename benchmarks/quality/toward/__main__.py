"""Do maskers with targets show what two images share, and what does it cost?  On answers that are known.

    python -m benchmarks.natural_data DEBS --out DATA
    python -m benchmarks.toward --data DATA --work WORK --json benchmarks/results/toward.json \\
        --encoder-weights tf_efficientnet_lite0=lite0.safetensors --masker tf_efficientnet_lite0:0=RUN \\
        --plain tf_efficientnet_lite0:1=RUN

Parts:

    targets    unseen composites: the mask inside and outside the object, toward themselves, the same object
               on another photograph, their bare photograph, another object on it, and what is unrelated
    mixtures   two composites by a known region: where the mask lies, toward the one, the other, neither
    optimum    a mask optimised for each mixture by the same objective: its limit
    baselines  other explanations of pairs on both tasks: share of the mass in the region, rank, pointing, AUC
    timing     seconds an image of each of them, one after the other in one process
    cost       graphs of one and of two inputs beside the encoder alone, interleaved, in onnxruntime
    self       masks without a target: maskers that take targets beside maskers that do not, by image
    planted    pairs of scenes that share one digit, on an encoder of `python -m benchmarks.encoders` (in
               WORK/encoders)

Each result is a file under --work/parts and is not computed again; the JSON holds what there is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.estimate import groups
from benchmarks.common.record import command, exits, meta, write_compact
from benchmarks.quality.natural.methods import OPTIMISED_STEPS
from benchmarks.quality.natural.subject import SIZE, Source, digest, encoder_of, weights_of
from benchmarks.quality.toward.cost import THREADS
from benchmarks.quality.toward.jobs import (
    OURS,
    PARTS,
    PLAIN,
    SELF,
    TARGET,
    Options,
    Row,
    Runs,
    jobs_of,
    kept,
    result_of,
)
from benchmarks.quality.toward.methods import METHODS
from benchmarks.quality.toward.subject import LOCALISED
from runtime.errors import InputError
from train.checkpoint import MaskerFile
from train.run_folder import MASKER, run_of


def merged(options: Options) -> dict[str, Any]:
    """All results under `work`, merged."""
    rows: dict[str, list[Row]] = {}
    for part in PARTS:
        jobs = jobs_of(options, part)
        rows[part] = [one for job in jobs if kept(options, job).exists() for one in result_of(options, job)]
    names = [name for name, _ in options.source.weights]
    return {
        "meta": {**meta(), "data": digest(options.source.data)},
        "encoders": {name: encoder_of(options.source, name).record.fingerprint for name in names},
        "settings": {name: method.settings for name, method in METHODS.items()},
        "maskers": [
            _masker(name, seed, run, kind)
            for kind, runs in ((TARGET, options.runs), (PLAIN, options.plain))
            for name, seed, run in runs
        ],
        "self_paired": [
            {"encoder": name, **one} for name in names for one in self_paired(rows["self"], name)
        ],
        "paired": paired(rows["baselines"]),
        **rows,
    }


def _masker(name: str, seed: int, run: Path, kind: str) -> Row:
    masker = MaskerFile.open(run / MASKER)
    config, summary = masker.config, run_of(masker)
    of = {"encoder": name, "seed": seed, "masker": kind, "batch_size": config.batch_size}
    return {**of, "steps": config.steps, "train_seconds": summary and summary.seconds}


def self_paired(rows: Sequence[Row], encoder: str) -> list[Row]:
    """Maskers with targets less those without, by image, each the mean over its seeds: 95 % intervals.

    `error` is the standard error over images; `error_seeds` also has the spread of both kinds' seeds in it.
    """
    found = []
    for key in SELF:
        kinds = [
            [r["values"][key] for r in rows if (r["encoder"], r["masker"]) == (encoder, kind)]
            for kind in (TARGET, PLAIN)
        ]
        if not all(kinds):
            continue
        of = _apart(*kinds)
        spreads = [
            np.nanmean(np.array(k, float), axis=1).std(ddof=1) / math.sqrt(len(k))
            for k in kinds
            if len(k) > 1
        ]
        found.append(
            {
                "metric": key,
                **of,
                "low": of["difference"] - 1.96 * of["error"],
                "high": of["difference"] + 1.96 * of["error"],
                "error_seeds": math.hypot(of["error"], *spreads),
                "seeds": [len(kind) for kind in kinds],
            }
        )
    return found


def paired(rows: Sequence[Row]) -> list[Row]:
    """Ours, the mean over its seeds, less each other method, by image; `error` is the standard error."""
    found = []
    for group in groups(rows, "encoder", "task"):
        who = {key: group[key] for key in ("encoder", "task")}
        methods = {of["method"]: of.rows for of in groups(group.rows, "method")}
        ours = methods.pop(OURS, [])
        for method, other in methods.items() if ours else ():
            for key in LOCALISED:
                of = _apart(*([row["values"][key] for row in each] for each in (ours, other)))
                if of["images"] > 1:
                    found.append({**who, "against": method, "metric": key, **of})
    return found


def _apart(ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Row:
    """Mean difference over the images that both have, each a mean over seeds, and its standard error."""
    n = min(map(len, (*ours, *other)))
    means = [np.array([of[:n] for of in each], float).mean(0) for each in (ours, other)]
    apart = means[0] - means[1]
    apart = apart[~np.isnan(apart)]
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return {"difference": float(apart.mean()), "error": error, "images": len(apart)}


def runs_of(given: Sequence[str], option: str) -> Runs:
    """NAME:SEED=FOLDER, ….

    Raises:
        InputError: not of that form, or no masker there.
    """
    found = []
    for text in given:
        who, _, folder = text.partition("=")
        name, _, seed = who.partition(":")
        if not seed.isdigit() or not (Path(folder) / MASKER).is_file():
            raise InputError(
                f"{option} {text}",
                expected=f"NAME:SEED=FOLDER, the folder of a finished training, with its {MASKER}",
                cure=f"e.g. {option} mobilenetv2_100:0=runs/mobilenetv2-0",
            )
        found.append((name, int(seed), Path(folder)))
    return tuple(found)


def add_source(o: Options) -> None:
    """Raises InputError: weights or runs that are not there, or a masker of an encoder without weights."""
    weights = weights_of(o.encoder_weights)
    o.runs, o.plain = runs_of(o.masker, "--masker"), runs_of(o.plain, "--plain")
    if odd := {name for name, _, _ in (*o.runs, *o.plain)} - {name for name, _ in weights}:
        raise InputError(
            f"maskers of {', '.join(sorted(odd))}",
            expected="only of encoders that --encoder-weights names",
            cure="name their weights",
        )
    for few in ("faithful_images", "optimum_images", "dear_images"):
        setattr(o, few, min(getattr(o, few), o.images))
    o.source = Source(data=o.data, weights=weights, device="cpu", size=o.size)


def parsed() -> Options:
    """The command line."""
    p = command("toward", __doc__, json=False)
    p.add_argument("--data", type=Path, required=True, help="what python -m benchmarks.natural_data made")
    p.add_argument("--work", type=Path, required=True, help="finished results, planted encoders and maskers")
    p.add_argument("--encoder-weights", nargs="+", required=True, metavar="NAME=FILE", help="timm name, file")
    p.add_argument("--masker", nargs="+", default=[], metavar="NAME:SEED=FOLDER", help="maskers with targets")
    p.add_argument(
        "--plain", nargs="+", default=[], metavar="NAME:SEED=FOLDER", help="maskers without targets"
    )
    p.add_argument("--json", type=Path, help="write all results that are there")
    p.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="baselines to run")
    p.add_argument("--images", type=int, default=100, help="composites (%(default)s)")
    p.add_argument("--faithful-images", type=int, default=100, help="for insertion − deletion (%(default)s)")
    p.add_argument("--optimum-images", type=int, default=24)
    p.add_argument("--optimum-steps", type=int, default=OPTIMISED_STEPS)
    p.add_argument("--dear-images", type=int, default=12, help="for baselines with many passes (%(default)s)")
    p.add_argument("--size", type=int, default=SIZE, help="pixels (%(default)s)")
    p.add_argument(
        "--planted-steps", type=int, default=600, help="of planted maskers' training (%(default)s)"
    )
    return p.parse_args()


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    options = parsed()
    torch.set_num_threads(THREADS)
    add_source(options)
    for part in (part for part in PARTS if part in options.parts):
        for job in tqdm(jobs_of(options, part), desc=part):
            result_of(options, job)
    if options.json:
        write_compact(options.json, merged(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
