"""Methods by their names (maskers are trained when asked for), and the planted scenes that they explain."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.record import short_digest
from benchmarks.quality import maskers
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.planted import encoders
from benchmarks.quality.planted.planting import TRAINING_PRECISION
from benchmarks.quality.planted.world import SIZE, photograph, scene
from benchmarks.quality.scoring import Explain, Subject
from benchmarks.quality.settings import SETTINGS
from runtime.atomic import atomic_folder
from runtime.media.encode import save_png
from train.checkpoint import load_nem, read_config
from train.encoder.frozen import FrozenEncoder
from train.run_folder import MASKER, read_summary

TRAIN_SCENES, QUICK_SCENES = 4000, 64
"""Number of scenes that a masker is trained on; the second number is for --quick."""

FILL_PHOTOGRAPHS, CENTRE_SCENES = 64, 256
FIRST_SCENE = 5000
"""Test scenes below it chose the objective's defaults and scored the encoders; none of them is used here."""


@functools.cache
def encoder_of(name: str, work: Path) -> FrozenEncoder:
    """A planted encoder under `work`, loaded once: RELAX remembers its runs by the encoder."""
    return encoders.load(name, work / "encoders")


def explainer(
    work: Path, name: str, method: str, *, seed: int, steps: int, quick: bool = False
) -> tuple[Explain, dict[str, Any]]:
    """A method on an encoder, and its masker's objective and training seconds (empty for a baseline).

    Raises:
        InputError: training failed; it has said why.
    """
    if method in BASELINES:
        return (lambda encoder, x: BASELINES[method].explain(encoder, x, seed=seed)), {}
    run = train_masker(work, name, method, seed=seed, steps=steps, quick=quick)
    nem = load_nem(run / MASKER, encoder=encoder_of(name, work))
    summary = read_summary(run)
    seconds = None if summary.resumed_at else summary.seconds
    facts = {"objective": read_config(run / MASKER).objective, "train_seconds": seconds}
    return functools.partial(maskers.mask, nem.masker), facts


def settings(work: Path, name: str, method: str, *, seed: int, steps: int) -> dict[str, Any]:
    """Everything that a method's map depends on, the defaults of today resolved."""
    if method in BASELINES:
        return BASELINES[method].settings
    return maskers.settings(_arguments(work, name, method, seed=seed, steps=steps, data=work / "scenes"))


def train_masker(work: Path, name: str, method: str, *, seed: int, steps: int, quick: bool = False) -> Path:
    """The run folder of a masker, trained if it is not there yet."""
    data = training_scenes(work, quick=quick)
    arguments = _arguments(work, name, method, seed=seed, steps=steps, data=data)
    fingerprint = encoder_of(name, work).record.fingerprint
    out = work / "runs" / slug(name, method, str(seed), short_digest([fingerprint, *arguments]))
    maskers.train_masker([*arguments, "--out", str(out), "--quiet", "--resume", "auto"])
    return out


def _arguments(work: Path, name: str, method: str, *, seed: int, steps: int, data: Path) -> list[str]:
    """Options of `python -m train`, without --out."""
    architecture = f"timm/{encoders.ENCODERS[name].architecture}"
    return [
        *("--encoder", architecture, "--weights", str(work / "encoders" / f"{name}.safetensors")),
        *("--image-size", str(SIZE), "--resize", "squash", "--data", str(data)),
        *("--steps", str(steps), "--learning-rate", "3e-3", "--precision", TRAINING_PRECISION),
        *("--seed", str(seed), "--no-toward", *SETTINGS[method]),
    ]


def training_scenes(work: Path, *, quick: bool = False) -> Path:
    """The folder of scenes that maskers are trained on, written if it is not there."""
    scenes = work / ("scenes-quick" if quick else "scenes")
    if not scenes.exists():
        with atomic_folder(scenes, force=False) as folder:
            for i in tqdm(range(QUICK_SCENES if quick else TRAIN_SCENES), desc="scenes"):
                save_png(folder / f"{i:05d}.png", scene(i, split="train").image)
    return scenes


def slug(*names: str) -> str:
    """A file name."""
    return "-".join("".join(c if c.isalnum() else "_" for c in name) for name in names)


@functools.lru_cache(maxsize=4)  # every method of an encoder is scored on the same one
def subject(encoder: FrozenEncoder, truth: tuple[str, ...], *, kind: str, scenes: int) -> Subject:
    """Test scenes of a kind, from FIRST_SCENE on; the region is the union of the factors of `truth`.

    Without a truth the region is empty, and what is measured against it null.
    """
    tests = [scene(i, split="test", kind=kind) for i in range(FIRST_SCENE, FIRST_SCENE + scenes)]
    training = np.stack([scene(i, split="train").image for i in range(CENTRE_SCENES)])
    bare = np.stack([photograph(i, split="train") for i in range(FILL_PHOTOGRAPHS)])
    return Subject(
        encoder=encoder,
        x=encoder.normalize(torch.from_numpy(np.stack([s.image for s in tests]))),
        regions=np.stack([sum((s.regions[n] for n in truth), np.zeros((SIZE, SIZE), bool)) for s in tests]),
        centre=encoders.embed(encoder, training).mean(dim=0).clone(),
        photographs=encoder.normalize(torch.from_numpy(bare)),
    )
