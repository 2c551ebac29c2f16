"""Compare rules for the price of the mask's size on encoders that no rule was tuned on.

    python -m benchmarks.area_price --json benchmarks/results/area_price.json \\
        [--real lite0=timm/tf_efficientnet_lite0:WEIGHTS --photographs TRAIN --composites TEST --masks MASKS]

A rule gives λ of `train.objective.sparse` from the price of showing nothing, E = 4·D(f(x), f(ρ)), which is
measured before training: `1.5` is λ = 1.5·E, `0.5-1.5` grows from 0.5·E to 1.5·E while training, `=0.5` is
λ = 0.5 whatever the encoder.  One row per (encoder, rule, seed, steps), kept under --work as it is finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.record import command, meta, write
from benchmarks.quality.explainers import FIRST_SCENE, training_scenes
from benchmarks.quality.metrics import localisation
from benchmarks.quality.metrics.faithfulness import centred_cosine, held_out_fill, insertion_deletion
from benchmarks.quality.planted import encoders
from benchmarks.quality.planted.world import SIZE, scene
from export.package.source import fitted
from runtime.media.geometry import Geometry
from runtime.media.sources import find_images
from train.config import EncoderConfig, TrainConfig
from train.data import Photographs, collate
from train.encoder.zoo import load_encoder
from train.lightning_module import FIRST_IMAGES, MaskerTraining
from train.nem import NEM
from train.objective import AREA_PRICE, OBJECTIVES, Batch
from train.occlusion import make_fill, occlude
from train.verdict import GREY

RULES = ("=0.5", "0.8", "1", "1.25", "1.5", "2", "0.5-1.5")
RUNS = ((0, 250), (1, 250), (2, 250), (0, 1000), (0, 3000))
"""(seed, steps)."""
SCENES, CURVES = 60, 24
"""Number of test images, and how many of them have insertion and deletion curves."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An encoder, what its masker is trained on, and images whose region is known."""

    name: str
    encoder: EncoderConfig
    data: str
    batch_size: int
    composites: str = ""
    """Folder of photographs; empty: the planted world's scenes."""
    masks: str = ""
    """Folder of their regions: the photographs' names with another suffix."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    case: Case
    rule: str
    seed: int
    steps: int

    @property
    def path(self) -> str:
        """Name of its file."""
        return f"{self.case.name},{self.rule},{self.seed},{self.steps}.json"


def weight(rule: str, empty_cost: float, progress: float) -> float:
    """λ at a share of the training, 0 to 1."""
    if rule.startswith("="):
        return float(rule[1:])
    first, _, last = rule.partition("-")
    return empty_cost * (float(first) + progress * (float(last or first) - float(first)))


def run(job: Job, work: Path) -> dict[str, Any]:
    """Train and score; returns the row, which is read if it was already written."""
    kept = work / "price" / job.path
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    torch.set_num_threads(1 if torch.cuda.is_available() else torch.get_num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, empty_cost = train(job, device)
    row = {
        "encoder": job.case.name,
        "rule": job.rule,
        "seed": job.seed,
        "steps": job.steps,
        "empty_cost": empty_cost,
        "weight": weight(job.rule, empty_cost, 1),
        **score(module, job.case, device, kept.with_suffix(".png")),
    }
    write(kept, row)
    return row


def train(job: Job, device: torch.device) -> tuple[MaskerTraining, float]:
    """A trained masker, and E."""
    case = job.case
    torch.manual_seed(job.seed)
    config = TrainConfig(
        toward=False,
        encoder=case.encoder,
        data=case.data,
        steps=job.steps,
        batch_size=case.batch_size,
        seed=job.seed,
    )
    encoder = load_encoder(config.encoder)
    module = MaskerTraining(NEM.of(config, encoder), config, files="").to(device)
    stream = Photographs(
        find_images(Path(case.data)),
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
def score(module: MaskerTraining, case: Case, device: torch.device, picture: Path) -> dict[str, Any]:
    """Figures of the masks of unseen images, means over images; and a picture of some of them."""
    images, regions = tests(case, module)
    x = module.frozen.normalize(torch.from_numpy(images).to(device))
    logits, losses = [], []
    for part in x.split(20):
        embedding, pyramid = module.frozen(part)
        logits.append(module.nem.masker(pyramid, part).squeeze(1).float())
        generator = torch.Generator(device).manual_seed(0)
        fill = make_fill(module.config.fill, part, generator=generator)
        batch = Batch(
            x=part, embedding=embedding, logits=logits[-1], fill=fill, centre=module.centre,
            generator=generator,
        )  # fmt: skip
        objective = OBJECTIVES[module.config.objective]
        losses.append(
            float(objective(lambda v: module.frozen(v)[0], batch, area_weight=module.area_weight).loss)
        )
    every = torch.cat(logits)
    masks = every.sigmoid()
    draw(picture, images, masks.cpu().numpy())
    low, high = GREY
    row: dict[str, Any] = {
        "n_images": len(x),
        "loss": float(np.mean(losses)),
        "area": masks.mean().item(),
        "grey": ((masks > low) & (masks < high)).float().mean().item(),
        "area_above_half": (masks > 0.5).float().mean().item(),
        **against(every.cpu().numpy(), masks.cpu().numpy(), regions),
    }
    embed = lambda v: module.frozen(v)[0]  # noqa: E731
    fill = held_out_fill("mean", x, photographs=x, generator=torch.Generator())
    hard = (masks > 0.5).to(x)
    moved = hard.roll((x.shape[2] // 2, x.shape[3] // 2), (1, 2))
    for name, mask in (("kept", hard), ("kept_moved", moved)):
        parts = zip(x.split(20), mask.split(20), fill.split(20), strict=True)
        cosines = [
            centred_cosine(embed(occlude(a, m, f)), embed(a), centre=module.centre) for a, m, f in parts
        ]
        row[name] = torch.cat(cosines).mean().item()
    generator = torch.Generator().manual_seed(0)
    curves = [
        insertion_deletion(
            embed, x[i], every[i], fill[i], centre=module.centre, generator=generator, steps=16
        )
        for i in range(min(CURVES, len(x)))
    ]
    row["insertion_minus_deletion"] = float(np.mean([a - b for a, b in curves]))
    return row


def against(logits: np.ndarray, masks: np.ndarray, regions: np.ndarray) -> dict[str, float | None]:
    """Means over the images that have a region; of the logits' order, and of the masks' level."""
    having = [i for i, region in enumerate(regions) if region.any() and not region.all()]
    figures = {
        "rank": (localisation.relevance_rank, logits),
        "rank_of_mask": (localisation.relevance_rank, masks),
        "pointing": (localisation.pointing_game, logits),
        "mass": (localisation.relevance_mass, masks),
        "inside": (localisation.mask_inside, masks),
        "outside": (localisation.mask_outside, masks),
    }
    return {
        name: float(np.mean([of(maps[i].astype(np.float64), regions[i]) for i in having])) if having else None
        for name, (of, maps) in figures.items()
    } | {"region": float(regions.mean())}


def tests(case: Case, module: MaskerTraining) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) and bool (N, H, W)."""
    if not case.composites:
        truth = encoders.ENCODERS[case.name].truth
        seen = [scene(i, split="test", kind="standard") for i in range(FIRST_SCENE, FIRST_SCENE + SCENES)]
        regions = [sum((s.regions[n] for n in truth), np.zeros((SIZE, SIZE), bool)) for s in seen]
        return np.stack([s.image for s in seen]), np.stack(regions)
    seen_as = module.nem.encoder.input
    files = find_images(Path(case.composites))
    files = files[:: max(1, len(files) // SCENES)][:SCENES]
    images = fitted(files, seen_as)
    size = (seen_as.width, seen_as.height)
    masks = [Image.open(Path(case.masks) / f"{file.stem}.png").convert("L") for file in files]
    return images, np.stack([np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 127 for mask in masks])


def draw(path: Path, images: np.ndarray, masks: np.ndarray, *, shown: int = 10) -> None:
    """Images above, masks below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.repeat((255 * masks[:shown, ..., None]).round().astype(np.uint8), 3, axis=3)
    Image.fromarray(
        np.concatenate([np.concatenate(list(images[:shown]), 1), np.concatenate(list(grey), 1)])
    ).save(path)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The planted encoders that are there, and the real ones that were named."""
    for name, planted in encoders.ENCODERS.items():
        weights = options.work / "encoders" / f"{name}.safetensors"
        if weights.exists():
            encoder = EncoderConfig(
                encoder=f"timm/{planted.architecture}", weights=str(weights), image_size=(SIZE, SIZE),
                resize="squash",
            )  # fmt: skip
            yield Case(name=name, encoder=encoder, data=str(training_scenes(options.work)), batch_size=32)
    for given in options.real:
        name, _, rest = given.partition("=")
        model, _, weights = rest.partition(":")
        side = options.image_size
        encoder = EncoderConfig(encoder=model, weights=weights, image_size=(side, side), resize="squash")
        yield Case(
            name=name, encoder=encoder, data=str(options.photographs), batch_size=16,
            composites=str(options.composites), masks=str(options.masks),
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write all rows."""
    p = command("area_price", __doc__)
    p.add_argument("--work", type=Path, default=Path("benchmarks/out"))
    p.add_argument("--rules", nargs="+", default=RULES)
    p.add_argument("--runs", nargs="+", default=[f"{s}:{n}" for s, n in RUNS], metavar="SEED:STEPS")
    p.add_argument("--encoders", nargs="+", help="encoders to use (default: all that are trained)")
    p.add_argument("--real", nargs="+", default=[], metavar="NAME=MODEL:WEIGHTS")
    p.add_argument("--photographs", type=Path)
    p.add_argument("--composites", type=Path)
    p.add_argument("--masks", type=Path)
    p.add_argument(
        "--image-size", type=int, default=160, help="input size of the real encoders (%(default)s)"
    )
    p.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    options = p.parse_args(argv)
    chosen = [c for c in cases(options) if not options.encoders or c.name in options.encoders]
    runs = [tuple(int(n) for n in given.split(":")) for given in options.runs]
    jobs = [
        Job(case=case, rule=rule, seed=seed, steps=steps)
        for seed, steps in runs
        for rule in options.rules
        for case in chosen
    ]
    report: dict[str, Any] = {"meta": meta(), "cases": [asdict(case) for case in chosen], "rows": []}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job, options.work) for job in jobs]):
            report["rows"].append(done.result())
            report["rows"].sort(key=lambda r: (r["encoder"], r["steps"], r["rule"], r["seed"]))
            write(options.json, report)
            print(json.dumps(done.result()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
