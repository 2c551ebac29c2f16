"""One training run: Lightning's loop around `train.lightning_module`, and the files that it writes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

import lightning
import timm
import torch
from lightning import Trainer

import runtime
from runtime.assess import LEAST_FOLLOWED
from runtime.atomic import atomic_file
from runtime.errors import InputError
from runtime.media.geometry import Geometry, decoded
from runtime.media.sources import find_images
from runtime.package.records import TrainingRecord
from train.checkpoint import save_masker
from train.config import EncoderConfig, TrainConfig
from train.data import Photographs, Steps, collate, load, set_apart
from train.distributed import check_batch_size, leave_together
from train.encoder.frozen import FrozenEncoder
from train.encoder.siblings import siblings
from train.encoder.zoo import load_encoder
from train.lightning_module import FIRST_IMAGES, TARGET_IMAGES, MaskerTraining
from train.loop import hush, make_trainer
from train.machine import check_precision, default_workers
from train.mixtures import follow
from train.nem import NEM
from train.run_folder import (
    MASKER,
    SKIPPED,
    SUMMARY,
    claim,
    newest_checkpoint,
    read_summary,
    start_step,
    write_apart,
)

log = logging.getLogger("nemu.train")


def fit(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    force: bool = False,
    checkpoint_every: int = 100,
    workers: int | None = None,
    progress: bool = True,
) -> TrainingRecord:
    """Train a masker into `out/`: masker.safetensors, config.json, summary.json, metrics, checkpoints.

    With `resume`, a run that is already complete in `out` is not repeated: its summary is returned.

    Args:
        resume: continue from the newest checkpoint in `out`, if there is one; start afresh if not.
        force: start afresh although `out` holds a run.
        checkpoint_every: steps between checkpoints.
        workers: processes that decode images; None: see `train.machine.default_workers`.

    Raises:
        OutputExists: `out` holds a run, and neither `resume` nor `force` is given.
        InputError: no images; a run of other settings in `out`; a batch that the processes cannot share.
        KeyboardInterrupt: Ctrl-C; checkpoints stay, nothing else is written.
    """
    start = start_step(config, out, resume=resume, force=force)
    if resume and (out / MASKER).exists() and (out / SUMMARY).exists():
        return read_summary(out)
    check_precision(config.precision)
    files, apart = set_apart(find_images(Path(config.data)))
    torch.manual_seed(config.seed)
    nem = NEM.of(config, _encoder(config.encoder))
    module = MaskerTraining(nem, config, files=_list_id(files, Path(config.data)))
    geometry = Geometry.from_record(nem.encoder.input)
    images = Photographs(files, geometry=geometry, seed=config.seed, augment=config.augment)
    with hush():
        trainer = make_trainer(config, out, start=start, checkpoint_every=checkpoint_every, progress=progress)
        check_batch_size(config, trainer.world_size)
        looked_at = TARGET_IMAGES if config.toward and not start else FIRST_IMAGES
        first = collate([images[p] for p in range(looked_at)])[0]
        module.to(trainer.strategy.root_device).prepare(first, resumed=start > 0)
        began = time.monotonic()
        _loop(trainer, module, images, out, start=start, workers=workers)
    return _finish(module, images, apart, first, out, start=start, seconds=time.monotonic() - began)


def _finish(
    module: MaskerTraining,
    images: Photographs,
    apart: list[Path],
    first: torch.Tensor,
    out: Path,
    *,
    start: int,
    seconds: float,
) -> TrainingRecord:
    """Judge the masks on the images set apart, else on the first ones; write the run's files."""
    unseen, unreadable = decoded(apart, images.geometry)
    skipped = [*(images.files[i] for i in sorted(module.skipped)), *unreadable]
    judged = torch.from_numpy(unseen) if len(unseen) else first
    found = len(images.files)
    summary = _summary(
        module, judged, resumed_at=start, images_found=found, skipped=len(skipped), seconds=seconds
    )
    if module.trainer.is_global_zero:
        readable = [file for file in apart if file not in unreadable]
        write_apart(out, readable, Path(module.config.data))
        _write(out, module, summary, skipped)
    leave_together()
    return summary


def _loop(
    trainer: Trainer,
    module: MaskerTraining,
    images: Photographs,
    out: Path,
    *,
    start: int,
    workers: int | None,
) -> None:
    """Run the steps from `start` on; raises KeyboardInterrupt on Ctrl-C."""
    config = module.config
    if trainer.is_global_zero:
        claim(config, out, start=start)
    batches = Steps(start, config.steps, config.batch_size, trainer.global_rank, trainer.world_size)
    if workers is None:
        workers = loading_workers(config.batch_size // trainer.world_size, images.geometry)
    loader = load(images, batches, workers=workers)
    checkpoint = newest_checkpoint(out) if start else None
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # Lightning turns Ctrl-C into this after it has shut down
        raise KeyboardInterrupt from error


def _followed(module: MaskerTraining, images: torch.Tensor) -> float:
    """How far masks follow their targets, 0 to 1; logs a warning if that is too little."""
    followed = follow(module, images)
    if followed < LEAST_FOLLOWED:
        log.warning(
            "the masks hardly follow their targets (%.2f of 1): train for more --steps or on more images, "
            "and do not use them to compare two images",
            followed,
        )
    return followed


def _encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder; logs a warning if its weights also fit another timm model."""
    encoder = load_encoder(config)
    if config.weights and (others := siblings(encoder)):
        log.warning(
            "%s also fits %s, which computes another embedding with it; if the weights are that model's, "
            "name it with --encoder; --check PHOTO shows the classes that each names",
            config.weights,
            " and ".join(others),
        )
    return encoder


def loading_workers(images: int, geometry: Geometry) -> int:
    """Number of loader workers of one training process, whose batches have so many images."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return default_workers(batch_bytes=images * geometry.height * geometry.width * 3, processes=processes)


def _list_id(files: list[Path], root: Path) -> str:
    """sha256 of the relative paths, which identifies the list of images."""
    names = "\n".join(file.relative_to(root).as_posix() for file in files)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def _summary(
    module: MaskerTraining,
    images: torch.Tensor,
    *,
    resumed_at: int,
    images_found: int,
    skipped: int,
    seconds: float,
) -> TrainingRecord:
    """The record of a run that ended; masks are judged on `images`, uint8 (N, H, W, 3)."""
    module.to(module.trainer.strategy.root_device)  # Lightning leaves it on the CPU
    verdict = module.judge(images)
    followed = _followed(module, images) if module.config.toward else None
    loss, distance, area = torch.stack(list(module.recent)).mean(dim=0).tolist()
    return TrainingRecord(
        steps=module.config.steps,
        resumed_at=resumed_at,
        loss=loss,
        distance=distance,
        area=area,
        area_weight=module.area_weight or None,
        grey=None if verdict is None else verdict.grey,
        fault=None if verdict is None else verdict.fault(),
        follows=followed,
        processes=module.trainer.world_size,
        images=images_found,
        skipped=skipped,
        seconds=seconds,
        versions={
            "nemu": runtime.__version__,
            **{m.__name__: str(m.__version__) for m in (torch, timm, lightning)},
        },
    )


def _write(out: Path, module: MaskerTraining, summary: TrainingRecord, skipped: list[Path]) -> None:
    """Write masker, summary and the list of skipped files; raises InputError if the masker is not finite."""
    if not all(torch.isfinite(t).all() for t in module.nem.masker.state_dict().values()):
        raise InputError(
            f"training diverged: the masker holds values that are not finite (loss {summary.loss})",
            expected="finite weights",
            cure="lower --learning-rate, check --mean and --std, or use --precision 32-true",
        )
    if skipped:
        with atomic_file(out / SKIPPED) as file:
            file.write_text("".join(f"{path}\n" for path in skipped))
    with atomic_file(out / SUMMARY) as file:
        file.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    save_masker(out / MASKER, module.nem, module.config)
