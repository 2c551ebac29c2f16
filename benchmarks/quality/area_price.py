"""Compare rules for the price of the mask's size on encoders that no rule was tuned on.

    python -m benchmarks.area_price --json benchmarks/results/area_price.json \\
        --real lite0=timm/tf_efficientnet_lite0:WEIGHTS --photographs TRAIN --composites TEST --masks MASKS

A rule gives λ of `train.objective.sparse` from the price of showing nothing, E = 4·D(f(x), f(ρ)), which is
measured before training: `1.5` is λ = 1.5·E, `0.5-1.5` grows from 0.5·E to 1.5·E while training, `=0.5` is
λ = 0.5 whatever the encoder.  One row per (encoder, rule, seed, steps), kept under --work as it is finished.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.record import command, meta, remembered, write
from benchmarks.quality.metrics import localisation
from benchmarks.quality.metrics.faithfulness import cosine_kept, held_out_fill, insertion_deletion
from export.package.source import fitted
from runtime.media.geometry import Geometry
from runtime.media.sources import find_images
from train.config import EncoderConfig, TrainConfig
from train.data import Photographs, collate
from train.encoder.zoo import load_encoder
from train.lightning_module import FIRST_IMAGES, MaskerTraining
from train.nem import NEM
from train.objective import AREA_PRICE
from train.verdict import GREY

RULES = ("=0.5", "0.8", "1", "1.25", "1.5", "2", "0.5-1.5")
RUNS = ((0, 250), (1, 250), (2, 250), (0, 1000), (0, 3000))
"""(seed, steps)."""
SIZE, BATCH = 160, 16
IMAGES, CURVES = 60, 24
"""Number of test images, and how many of them have insertion and deletion curves."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, and images whose region is known."""

    name: str
    encoder: EncoderConfig
    photographs: Path
    composites: Path
    masks: Path
    """Regions of the composites: their names with another suffix."""
    rule: str
    seed: int
    steps: int


def weight(rule: str, empty_cost: float, progress: float) -> float:
    """λ at a share of the training, 0 to 1."""
    if rule.startswith("="):
        return float(rule[1:])
    first, _, last = rule.partition("-")
    return empty_cost * (float(first) + progress * (float(last or first) - float(first)))


def run(job: Job, work: Path) -> dict[str, Any]:
    """Train and score; returns the row, which is read if it was already written."""
    name = f"{job.name},{job.rule},{job.seed},{job.steps}.json"
    row: dict[str, Any] = remembered(work / "price" / name, partial(_row, job))
    return row


def _row(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1 if torch.cuda.is_available() else torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, empty_cost = train(job, device)
    return {
        "encoder": job.name,
        "rule": job.rule,
        "seed": job.seed,
        "steps": job.steps,
        "empty_cost": empty_cost,
        "weight": weight(job.rule, empty_cost, 1),
        **score(module, job, device),
    }


def train(job: Job, device: torch.device) -> tuple[MaskerTraining, float]:
    """A trained masker, and E."""
    torch.manual_seed(job.seed)
    config = TrainConfig(
        toward=False,
        encoder=job.encoder,
        data=str(job.photographs),
        steps=job.steps,
        batch_size=BATCH,
        seed=job.seed,
    )
    encoder = load_encoder(config.encoder)
    module = MaskerTraining(NEM.of(config, encoder), config, files="").to(device)
    stream = Photographs(
        find_images(job.photographs),
        geometry=Geometry.from_record(encoder.input),
        seed=job.seed,
        augment=config.augment,
    )
    first = collate([stream[p] for p in range(FIRST_IMAGES)])[0].to(device)
    module.set_centre(first)
    module.price_area(first)
    empty_cost = module.area_weight / AREA_PRICE
    learning: Any = module.configure_optimizers()
    optimizer, schedule = learning["optimizer"], learning["lr_scheduler"]["scheduler"]
    for step in range(job.steps):
        places = range(step * config.batch_size, (step + 1) * config.batch_size)
        images = collate([stream[p] for p in places])[0].to(device, non_blocking=True)
        module.area_weight = weight(job.rule, empty_cost, step / job.steps)
        optimizer.zero_grad()
        module.terms(images, step=step).loss.backward()
        optimizer.step()
        schedule.step()
    module.nem.eval()
    module.area_weight = weight(job.rule, empty_cost, 1)
    return module, empty_cost


@torch.no_grad()
def score(module: MaskerTraining, job: Job, device: torch.device) -> dict[str, Any]:
    """Figures of the masks of unseen images, means over images."""
    images, regions = tests(job, module)
    x = module.frozen.normalize(torch.from_numpy(images).to(device))
    parts = x.split(20)
    logits = torch.cat([module.nem.masker(module.frozen(part)[1], part).squeeze(1).float() for part in parts])
    masks = logits.sigmoid()
    row: dict[str, Any] = {
        "n_images": len(x),
        "area": masks.mean().item(),
        "grey": ((masks > GREY[0]) & (masks < GREY[1])).float().mean().item(),
        "area_above_half": (masks > 0.5).float().mean().item(),
        **against(logits.cpu().numpy(), masks.cpu().numpy(), regions),
    }
    fill = held_out_fill("mean", x, photographs=x, generator=torch.Generator())
    moved = masks.roll((x.shape[2] // 2, x.shape[3] // 2), (1, 2))
    for name, mask in (("kept", masks), ("kept_moved", moved)):
        pairs = zip(parts, mask.split(20), fill.split(20), strict=True)
        cosines = [cosine_kept(module.embed, *pair, centre=module.centre)[0] for pair in pairs]
        row[name] = torch.cat(cosines).mean().item()
    curve = partial(insertion_deletion, module.embed, centre=module.centre, steps=16)
    generator = torch.Generator().manual_seed(0)
    curves = [curve(x[i], logits[i], fill[i], generator=generator) for i in range(min(CURVES, len(x)))]
    return {**row, "insertion_minus_deletion": float(np.mean([a - b for a, b in curves]))}


def against(logits: np.ndarray, masks: np.ndarray, regions: np.ndarray) -> dict[str, float | None]:
    """Means over the images that have a region; of the logits' order, and of the masks' level."""
    having = [i for i, region in enumerate(regions) if region.any() and not region.all()]
    figures = {
        "rank": (localisation.relevance_rank, logits),
        "pointing": (localisation.pointing_game, logits),
        "mass": (localisation.relevance_mass, masks),
        "inside": (localisation.mask_inside, masks),
        "outside": (localisation.mask_outside, masks),
    }
    return {
        name: float(np.mean([of(maps[i].astype(np.float64), regions[i]) for i in having])) if having else None
        for name, (of, maps) in figures.items()
    } | {"region": float(regions.mean())}


def tests(job: Job, module: MaskerTraining) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) and bool (N, H, W)."""
    seen_as = module.nem.encoder.input
    files = find_images(job.composites)
    files = files[:: max(1, len(files) // IMAGES)][:IMAGES]
    size = (seen_as.width, seen_as.height)
    masks = [Image.open(job.masks / f"{file.stem}.png").convert("L") for file in files]
    regions = [np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 127 for mask in masks]
    return fitted(files, seen_as), np.stack(regions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write all rows."""
    p = command("area_price", __doc__)
    p.add_argument("--work", type=Path, default=Path("benchmarks/out"))
    p.add_argument("--rules", nargs="+", default=RULES)
    p.add_argument("--runs", nargs="+", default=[f"{s}:{n}" for s, n in RUNS], metavar="SEED:STEPS")
    p.add_argument("--real", nargs="+", required=True, metavar="NAME=MODEL:WEIGHTS")
    p.add_argument("--photographs", type=Path, required=True)
    p.add_argument("--composites", type=Path, required=True)
    p.add_argument("--masks", type=Path, required=True)
    p.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    o = p.parse_args(argv)
    folders = {"photographs": o.photographs, "composites": o.composites, "masks": o.masks}
    jobs = []
    for seed, steps in (map(int, given.split(":")) for given in o.runs):
        for rule, (name, _, rest) in product(o.rules, (given.partition("=") for given in o.real)):
            model, _, weights = rest.partition(":")
            encoder = EncoderConfig(encoder=model, weights=weights, image_size=(SIZE, SIZE), resize="squash")
            jobs.append(Job(name=name, encoder=encoder, **folders, rule=rule, seed=seed, steps=steps))
    report: dict[str, Any] = {"meta": meta(), "rows": []}
    with ProcessPoolExecutor(o.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job, o.work) for job in jobs]):
            report["rows"].append(done.result())
            report["rows"].sort(key=lambda r: (r["encoder"], r["steps"], r["rule"], r["seed"]))
            write(o.json, report)
            print(json.dumps(done.result()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
