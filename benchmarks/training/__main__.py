"""Training throughput: images per second of our loop and of the authors'.

    python -m benchmarks.training --json benchmarks/results/training.json

The variants take turns, round after round, on the same images in the same order; a round of one is some
steps after an untimed one.  A ratio is the geometric mean over rounds of the variant's throughput against
the authors' loop in the same round, with a 95 % interval (Student's t on the logarithms).  Ours is the
whole loop of `python -m train`, with its loading and logging, less its checkpoints.  The encoder's weights
are random, which takes as long.  On a GPU the clock waits for it.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from benchmarks.common.onnx_sessions import random_encoder
from benchmarks.common.record import command, lines, meta, write
from benchmarks.training.authors_loop import AuthorsLoop
from demo.world import scene
from runtime.media.geometry import Geometry
from runtime.media.sources import find_images
from train.config import EncoderConfig, TrainConfig
from train.data import Photographs, Steps, collate, load
from train.encoder.frozen import FrozenEncoder
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


class Stopwatch(Callback):
    """Measures `steps` steps after the warm-up; in between, a GPU is left to run ahead."""

    def __init__(self, steps: int) -> None:
        self._counted = WARM_UP, WARM_UP + steps
        self._ended = 0
        self._times: list[float] = []

    def end_step(self) -> None:
        """A step has ended."""
        self._ended += 1
        if self._ended in self._counted:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._times.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.end_step()

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a step, loading included."""
        first, last = self._times
        return (last - first) / (self._counted[1] - self._counted[0])


Turn = Callable[[Stopwatch], None]
"""Train for some steps under a stopwatch."""


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
        "--until",
        type=float,
        default=math.inf,
        help="seconds since 1970 after which nothing is begun but the first turns of the first two variants",
    )
    work = p.parse_args(argv)
    report: dict[str, Any] = {"meta": meta(), "rows": []}
    write(work.json, report)
    with tempfile.TemporaryDirectory() as folder, hush():
        for speeds in measure(make_turns(work, Path(folder)), work):
            report["rows"] = [row(name, speeds, work) for name, own in speeds.items() if own]
            write(work.json, report)
    print(lines(report["rows"]))
    return 0


def make_turns(work: argparse.Namespace, folder: Path) -> dict[str, Turn]:
    """A turn of every variant, each with an encoder of its own; the authors' is the first."""
    write_photographs(folder / "photographs")
    encoder = random_encoder(work.model, work.image_size)
    images = Photographs(
        find_images(folder / "photographs"),
        geometry=Geometry.from_record(encoder.input),
        seed=0,
        augment="none",
    )
    turns = {AUTHORS: authors_turn(work, encoder, images)}
    for name, settings in VARIANTS.items():
        config = TrainConfig(
            encoder=EncoderConfig(encoder=f"timm/{work.model}", image_size=(work.image_size,) * 2),
            data=str(folder / "photographs"),
            steps=WARM_UP + work.steps,
            batch_size=work.batch_size,
            **settings,
        )
        turns[name] = our_turn(config, copy.deepcopy(encoder), images, folder / name)
    return turns


def authors_turn(work: argparse.Namespace, encoder: FrozenEncoder, images: Photographs) -> Turn:
    """Some steps of the authors' loop, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop = AuthorsLoop(copy.deepcopy(encoder), device=device)

    def turn(stopwatch: Stopwatch) -> None:
        for _ in loop.run(images, steps=WARM_UP + work.steps, batch_size=work.batch_size):
            stopwatch.end_step()

    return turn


def our_turn(config: TrainConfig, encoder: FrozenEncoder, images: Photographs, out: Path) -> Turn:
    """Some steps of `python -m train`."""
    torch.manual_seed(config.seed)
    nem = NEM.of(config, encoder)
    module = MaskerTraining(nem, config, files="")
    if config.centred:
        module.set_centre(collate([images[p] for p in range(2)])[0])  # any: it takes no time of a step

    def turn(stopwatch: Stopwatch) -> None:
        trainer = make_trainer(config, out, start=0, checkpoint_every=config.steps + 1, progress=False)
        trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
        batches = Steps(0, config.steps, config.batch_size)
        workers = loading_workers(config.batch_size, images.geometry)
        trainer.fit(module, load(images, batches, workers=workers))

    return turn


def measure(turns: dict[str, Turn], work: argparse.Namespace) -> Iterator[dict[str, list[float]]]:
    """Images per second of every variant, one figure a round; given after every turn."""
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(work.rounds):
        for position, (name, turn) in enumerate(turns.items()):
            if (number or position > 1) and time.time() > work.until:
                return
            stopwatch = Stopwatch(work.steps)
            turn(stopwatch)
            speeds[name].append(work.batch_size / stopwatch.seconds_per_step)
            print(f"round {number + 1} of {work.rounds}: {name} {speeds[name][-1]:.2f} images/s", flush=True)
            yield speeds


def row(name: str, speeds: dict[str, list[float]], work: argparse.Namespace) -> dict[str, Any]:
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


def write_photographs(folder: Path) -> None:
    """JPEG files of a photograph's usual size."""
    folder.mkdir()
    for i in range(PHOTOGRAPHS):
        image = Image.fromarray(scene(i, split="train").image).resize(PIXELS, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:04d}.jpg", quality=90)


if __name__ == "__main__":
    raise SystemExit(main())
