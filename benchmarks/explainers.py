"""Every method by its name: a baseline as it is, a masker trained by `python -m train` when asked for."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import encoders
from benchmarks.baselines import BASELINES
from benchmarks.planting import TRAINING_PRECISION
from benchmarks.scoring import Explain
from benchmarks.settings import SETTINGS
from benchmarks.world import SIZE, scene
from runtime.atomic import atomic_folder
from runtime.errors import InputError
from runtime.image import save_png
from train.__main__ import config_of, parser
from train.__main__ import main as train
from train.checkpoint import load_nem
from train.encoder import FrozenEncoder
from train.folder import read_summary

TRAIN_SCENES = 4000


@functools.cache
def encoder_of(name: str, work: Path) -> FrozenEncoder:
    """A planted encoder under `work`, loaded once: RELAX remembers its runs by the encoder."""
    return encoders.load(name, work / "encoders")


def explainer(work: Path, name: str, method: str, *, seed: int, steps: int) -> tuple[Explain, dict[str, Any]]:
    """A method on an encoder, and its masker's objective and training seconds (empty for a baseline).

    Raises:
        InputError: training failed; it has said why.
    """
    if method in BASELINES:
        return (lambda encoder, x: BASELINES[method].explain(encoder, x, seed=seed)), {}
    run = train_masker(work, name, method, seed=seed, steps=steps)
    nem = load_nem(run / "masker.safetensors", encoder=encoder_of(name, work))

    @torch.inference_mode()
    def explain(encoder: FrozenEncoder, x: torch.Tensor) -> torch.Tensor:
        return nem.masker(encoder(x)[1], x).squeeze(1).float().sigmoid()

    config = json.loads((run / "config.json").read_text())
    summary = read_summary(run)
    seconds = None if summary.resumed_at else summary.seconds
    return explain, {"objective": config["objective"], "train_seconds": seconds}


def settings(work: Path, name: str, method: str, *, seed: int, steps: int) -> dict[str, Any]:
    """Everything that a method's map depends on, the defaults of today resolved."""
    if method in BASELINES:
        return BASELINES[method].settings
    options = parser().parse_args([*_arguments(work, name, method, seed=seed, steps=steps), "--out", "-"])
    config = asdict(config_of(options))
    del config["data"], config["encoder"]["weights"]  # where they lie; the fingerprint says what they are
    return config


def train_masker(work: Path, name: str, method: str, *, seed: int, steps: int) -> Path:
    """The run folder of a masker, trained if it is not there yet."""
    training_scenes(work)
    arguments = _arguments(work, name, method, seed=seed, steps=steps)
    fingerprint = encoder_of(name, work).record.fingerprint
    digest = hashlib.sha256(" ".join([fingerprint, *arguments]).encode()).hexdigest()[:8]
    out = work / "runs" / slug(name, method, str(seed), digest)
    if code := train([*arguments, "--out", str(out), "--quiet", "--resume", "auto"]):
        raise InputError(
            f"python -m train {' '.join(arguments)} ended with {code}",
            expected="a trained masker",
            cure="see its message above",
        )
    return out


def _arguments(work: Path, name: str, method: str, *, seed: int, steps: int) -> list[str]:
    """Of `python -m train`, but for --out."""
    architecture = f"timm/{encoders.ENCODERS[name].architecture}"
    return [
        *("--encoder", architecture, "--weights", str(work / "encoders" / f"{name}.safetensors")),
        *("--image-size", str(SIZE), "--resize", "squash", "--data", str(work / "scenes")),
        *("--steps", str(steps), "--learning-rate", "3e-3", "--precision", TRAINING_PRECISION),
        *("--seed", str(seed), *SETTINGS[method]),
    ]


def training_scenes(work: Path) -> None:
    """Write the folder of scenes that maskers are trained on, if it is not there."""
    if not (work / "scenes").exists():
        with atomic_folder(work / "scenes", force=False) as folder:
            for i in tqdm(range(TRAIN_SCENES), desc="scenes"):
                save_png(folder / f"{i:05d}.png", scene(i, split="train").image)


def slug(*names: str) -> str:
    """A file name."""
    return "-".join("".join(c if c.isalnum() else "_" for c in name) for name in names)
