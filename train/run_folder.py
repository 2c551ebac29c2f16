"""The folder of a run: its files, the step where a resumed run starts, and what may be replaced."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from runtime.atomic import atomic_file, refuse_existing
from runtime.errors import InputError, OutputExists, SchemaError
from runtime.package.records import TrainingRecord
from train.checkpoint import MaskerFile
from train.config import TrainConfig

MASKER = "masker.safetensors"
CONFIG = "config.json"
SUMMARY = "summary.json"
SKIPPED = "skipped.txt"
APART = "apart.txt"
"""The images that training did not see: one path a line, relative to their folder."""


def read_summary(out: Path) -> TrainingRecord:
    """The summary of a finished run; raises `SchemaError` if it cannot be read."""
    file = out / SUMMARY
    try:
        return TrainingRecord.from_json(file.read_text(errors="replace"), source=str(file))
    except SchemaError as error:
        raise SchemaError(
            error.came,
            expected="the summary that nemu train writes",
            cure=f"copy the run's folder again, or delete {file}, then the package has no training record",
        ) from error


def run_of(masker: MaskerFile) -> TrainingRecord | None:
    """The summary of the run that trained this masker, from its folder; None for a masker without one.

    Raises:
        SchemaError: the summary or the configuration beside it cannot be read.
        InputError: they are those of another run.
    """
    out = masker.path.parent
    if not (out / SUMMARY).is_file():
        return None
    summary, config = read_summary(out), out / CONFIG
    there = TrainConfig.from_json(config.read_text(), source=str(config)) if config.is_file() else None
    if there != masker.config:
        raise InputError(
            f"{out / SUMMARY} does not belong to the run that trained {masker.path.name}: {config} "
            + ("is missing" if there is None else "has other settings"),
            expected="a masker in the folder of its run, or without a summary beside it",
            cure="copy the run's folder again, or the masker alone to another place",
        )
    return summary


def write_apart(out: Path, files: Sequence[Path], data: Path) -> None:
    """Write the list of the images of the folder `data` that training did not see."""
    with atomic_file(out / APART, force=True) as file:
        names = "".join(f"{one.relative_to(data).as_posix()}\n" for one in files)
        file.write_text(names, errors="surrogateescape")


def apart_of(masker: MaskerFile) -> list[Path]:
    """Paths of the images that the run of this masker set apart; empty if its folder has no list."""
    note = masker.path.with_name(APART)
    if not note.is_file():
        return []
    data = Path(masker.config.data)
    return [data / name for name in note.read_text(errors="surrogateescape").splitlines()]


def start_step(config: TrainConfig, out: Path, *, resume: bool, force: bool) -> int:
    """The step to start at; under torchrun the first process alone checks `out`.

    Raises:
        OutputExists: `out` holds a run, and neither `resume` nor `force` is given; or something else.
        InputError: `out` holds a run of other settings, or a checkpoint that cannot be read.
    """
    if _is_first_process():
        _refuse_mixing(config, out, resume=resume, force=force)
    newest = newest_checkpoint(out) if resume else None
    if newest is None:
        return 0
    try:
        return int(torch.load(newest, weights_only=True, map_location="cpu")["global_step"])
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{newest} cannot be read ({str(error).partition(chr(10))[0]})",
            expected="a complete checkpoint of this run",
            cure=f"delete {newest} and repeat the command",
        ) from error


def newest_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the highest step; None if there is none."""
    checkpoints = out.glob("checkpoints/step-*.ckpt")
    return max(checkpoints, key=lambda p: int(p.stem.removeprefix("step-")), default=None)


def claim(config: TrainConfig, out: Path, *, start: int) -> None:
    """Write config.json; a run that starts at step 0 first removes the files of an earlier one."""
    if start == 0:
        for old in (
            *(out / name for name in (MASKER, SUMMARY, SKIPPED, APART)),
            *out.glob("checkpoints/step-*.ckpt"),
        ):
            old.unlink(missing_ok=True)
        for metrics in out.glob("metrics/from-step-*"):
            shutil.rmtree(metrics)
    with atomic_file(out / CONFIG) as file:
        file.write_text(config.to_json())


def _refuse_mixing(config: TrainConfig, out: Path, *, resume: bool, force: bool) -> None:
    """Raise unless `out` is free for this run: new, empty, its own, or a run to be replaced."""
    if not (out / CONFIG).exists():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise OutputExists(
                f"{out} exists and holds no training run",
                expected="a new folder, an empty one, or that of a run",
                cure="choose another --out; --force replaces only runs",
            )
        return
    saved = asdict(TrainConfig.from_json((out / CONFIG).read_text(), source=str(out / CONFIG)))
    if not resume:
        refuse_existing(out / CONFIG, force=force)
        return
    odd = [k for k, v in asdict(config).items() if v != saved[k]]
    if odd:
        raise InputError(
            f"{out} holds a run with other settings: "
            + ", ".join(f"{k} {saved[k]} there, {asdict(config)[k]} here" for k in odd),
            expected="the settings that the run began with",
            cure="--no-toward, the setting of runs before targets existed"
            if odd == ["toward"] and not saved["toward"]
            else "repeat them, or train into another --out, or start afresh with --force",
        )


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
