"""Training throughput: images per second of our loop and of the authors', and where the time goes.

    python -m benchmarks.training --json benchmarks/results/training.json

The variants take turns, round after round, on the same images in the same order; a round of one is some
steps after an untimed one.  A ratio is the geometric mean over rounds of the variant's throughput against
the authors' loop in the same round, with a 95 % interval (Student's t on the logarithms).  Ours is the
whole loop of `python -m train`, with its loading and logging, less its checkpoints.  The encoder's weights
are random, which takes as long.  On a GPU the clock waits for it.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.onnx_sessions import random_weights
from benchmarks.common.record import command, lines, meta, write
from benchmarks.training.authors_loop import AuthorsLoop
from benchmarks.training.stopwatch import Stopwatch, StopwatchCallback
from demo.world import scene
from runtime.media.geometry import Geometry
from runtime.media.sources import find_images
from train.config import EncoderConfig, TrainConfig
from train.data import Photographs, Steps, collate, load
from train.encoder.frozen import FrozenEncoder
from train.encoder.zoo import load_encoder
from train.fit import loading_workers
from train.lightning_module import MaskerTraining
from train.loop import hush, make_trainer
from train.nem import NEM

AUTHORS = "authors_loop"
THEIRS: dict[str, Any] = {"masker": "unet", "image_skip": True}
OBJECTIVE: dict[str, Any] = {"objective": "contrastive", "fill": "zero", "centred": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "our_loop": {},
    "our_loop_authors_decoder": THEIRS,
    "our_loop_authors_objective": OBJECTIVE,
    "our_loop_authors_decoder_and_objective": {**THEIRS, **OBJECTIVE},
}
"""Settings of `python -m train` that differ from its defaults."""
WARM_UP = 1
PHOTOGRAPHS, PIXELS = 128, (500, 375)
"""How many images are read, and their width and height."""

Turn = Callable[[Stopwatch], None]
"""Train for some steps under a stopwatch."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What every variant does."""

    model: str
    image_size: int
    batch_size: int
    steps: int
    """Counted steps of a turn."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    p = command("training", __doc__, json=False)
    p.add_argument("--json", type=Path, required=True)
    p.add_argument("--model", default="resnet50", help="timm model")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument(
        "--steps", type=int, default=2, help="steps of each variant and round, after an untimed one"
    )
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="seconds after which nothing is begun but the first two variants",
    )
    options = p.parse_args(argv)
    work = Workload(
        model=options.model,
        image_size=options.image_size,
        batch_size=options.batch_size,
        steps=options.steps,
    )
    until = time.monotonic() + options.budget
    report: dict[str, Any] = {"meta": meta(), "rows": [], "profile": []}
    write(options.json, report)
    with tempfile.TemporaryDirectory() as folder, hush():
        turns = make_turns(work, Path(folder))
        for speeds in measure(turns, work, rounds=options.rounds, until=until):
            report["rows"] = [row(name, speeds, work) for name, own in speeds.items() if own]
            write(options.json, report)
        for name, turn in turns.items():
            if time.monotonic() > until:
                break
            report["profile"].append({"variant": name, **shares(turn, work)})
            write(options.json, report)
    print(lines(report["rows"]), lines(report["profile"]), sep="\n\n")
    return 0


def make_turns(work: Workload, folder: Path) -> dict[str, Turn]:
    """A turn of every variant, each with an encoder of its own; the authors' is the first."""
    write_photographs(folder / "photographs")
    encoder_config, encoder = make_encoder(work, folder / "random.safetensors")
    images = Photographs(
        find_images(folder / "photographs"),
        geometry=Geometry.from_record(encoder.input),
        seed=0,
        augment="none",
    )
    turns = {AUTHORS: authors_turn(work, encoder, images)}
    for name, settings in VARIANTS.items():
        config = TrainConfig(
            encoder=encoder_config,
            data=str(folder / "photographs"),
            steps=WARM_UP + work.steps,
            batch_size=work.batch_size,
            **settings,
        )
        turns[name] = our_turn(config, copy.deepcopy(encoder), images, folder / name)
    return turns


def authors_turn(work: Workload, encoder: FrozenEncoder, images: Photographs) -> Turn:
    """Some steps of the authors' loop, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop = AuthorsLoop(copy.deepcopy(encoder), device=device)

    def turn(stopwatch: Stopwatch) -> None:
        stopwatch.watch(loop.encoder, loop.masker)
        loop.run(images, steps=WARM_UP + work.steps, batch_size=work.batch_size, stopwatch=stopwatch)

    return turn


def our_turn(config: TrainConfig, encoder: FrozenEncoder, images: Photographs, out: Path) -> Turn:
    """Some steps of `python -m train`."""
    torch.manual_seed(config.seed)
    nem = NEM.of(config, encoder)
    module = MaskerTraining(nem, config, files="")
    if config.centred:
        module.set_centre(collate([images[p] for p in range(2)])[0])  # any: it takes no time of a step

    def turn(stopwatch: Stopwatch) -> None:
        stopwatch.watch(module.frozen, nem.masker)
        trainer = make_trainer(config, out, start=0, checkpoint_every=config.steps + 1, progress=False)
        trainer.callbacks.append(StopwatchCallback(stopwatch))  # type: ignore[attr-defined]
        batches = Steps(0, config.steps, config.batch_size)
        workers = loading_workers(config.batch_size, images.geometry)
        trainer.fit(module, load(images, batches, workers=workers))

    return turn


def measure(
    turns: dict[str, Turn], work: Workload, *, rounds: int, until: float = math.inf
) -> Iterator[dict[str, list[float]]]:
    """Images per second of every variant, one figure a round; given after every turn.

    Args:
        until: of `time.monotonic`; after it no turn is begun but the first of the first two variants.
    """
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for position, (name, turn) in enumerate(turns.items()):
            if (number or position > 1) and time.monotonic() > until:
                return
            stopwatch = Stopwatch(stages=False, warm_up=WARM_UP, steps=work.steps)
            turn(stopwatch)
            speeds[name].append(work.batch_size / stopwatch.seconds_per_step)
            print(f"round {number + 1} of {rounds}: {name} {speeds[name][-1]:.2f} images/s", flush=True)
            yield speeds


def shares(turn: Turn, work: Workload) -> dict[str, float]:
    """Share of a step's time that each stage takes; the last turn, because its hooks stay."""
    stopwatch = Stopwatch(stages=True, warm_up=WARM_UP, steps=work.steps)
    turn(stopwatch)
    return stopwatch.shares


def row(name: str, speeds: dict[str, list[float]], work: Workload) -> dict[str, Any]:
    """What is reported of a variant."""
    own = speeds[name]
    ratio, interval = ratio_and_interval(own, speeds[AUTHORS][: len(own)])
    return {
        "variant": name,
        "model": work.model,
        "image_size": work.image_size,
        "batch": work.batch_size,
        "steps": work.steps,
        "rounds": len(own),
        "images_per_second": statistics.median(own),
        "least": min(own),
        "most": max(own),
        "ratio_to_authors_loop": ratio,
        "ratio_ci": interval,
        "threads": torch.get_num_threads(),
    }


def ratio_and_interval(own: Sequence[float], other: Sequence[float]) -> tuple[float, list[float] | None]:
    """Geometric mean of the paired ratios, and its 95 % interval; None for a single pair."""
    logs = [math.log(a / b) for a, b in zip(own, other, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), None
    half = _student(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), [math.exp(mean - half), math.exp(mean + half)]


def _student(freedom: int) -> float:
    """The 0.975 quantile of Student's t: with t = √freedom·tan θ, its density is cos^(freedom − 1) θ."""
    theta = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(theta) ** (freedom - 1)
    below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(0.95, below / below[-1], theta)))


def make_encoder(work: Workload, weights: Path) -> tuple[EncoderConfig, FrozenEncoder]:
    """A timm encoder with random weights; nothing is fetched."""
    random_weights(f"timm/{work.model}", weights)
    size = (work.image_size, work.image_size)
    config = EncoderConfig(encoder=f"timm/{work.model}", weights=str(weights), image_size=size)
    return config, load_encoder(config)


def write_photographs(folder: Path) -> None:
    """JPEG files of a photograph's usual size."""
    folder.mkdir()
    for i in range(PHOTOGRAPHS):
        image = Image.fromarray(scene(i, split="train").image).resize(PIXELS, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:04d}.jpg", quality=90)


if __name__ == "__main__":
    raise SystemExit(main())
