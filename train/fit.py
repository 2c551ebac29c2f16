"""One training run.  Lightning runs the loop; what it learns is in `train.training`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

import runtime
from runtime.assess import LEAST_FOLLOWED
from runtime.atomic import atomic_file
from runtime.errors import InputError
from runtime.image import Geometry, decoded
from runtime.records import TrainingRecord
from runtime.sources import find_images
from train.checkpoint import save_masker
from train.config import FEWEST_TO_PAIR, EncoderConfig, TrainConfig
from train.data import Photographs, Steps, collate, load, set_apart
from train.encoder import FrozenEncoder
from train.folder import (
    MASKER,
    SKIPPED,
    SUMMARY,
    claim,
    newest_checkpoint,
    read_summary,
    start_step,
    write_apart,
)
from train.machine import check_precision, default_workers
from train.mixtures import follow
from train.nem import NEM
from train.siblings import siblings
from train.training import FIRST_IMAGES, LOG_EVERY, TARGET_IMAGES, MaskerTraining
from train.verdict import Verdict
from train.zoo import load_encoder

log = logging.getLogger("nemu.train")


class _Bar(TQDMProgressBar):
    """Loss, embedding distance and mask area, as last logged."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return dict(pl_module.logged) if isinstance(pl_module, MaskerTraining) else {}


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

    A run that `out` already holds whole is not repeated when `resume` is given: its summary is returned.

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
    images = Photographs(
        files,
        geometry=Geometry.from_record(module.nem.encoder.input),
        seed=config.seed,
        augment=config.augment,
    )
    with hush():
        trainer = make_trainer(config, out, start=start, checkpoint_every=checkpoint_every, progress=progress)
        _check_share(config, trainer.world_size)
        looked_at = TARGET_IMAGES if config.toward and not start else FIRST_IMAGES
        first = collate([images[p] for p in range(looked_at)])[0]
        module.to(trainer.strategy.root_device).prepare(first, resumed=start > 0)
        began = time.monotonic()
        if trainer.is_global_zero:
            claim(config, out, start=start)
        batches = Steps(start, config.steps, config.batch_size, trainer.global_rank, trainer.world_size)
        if workers is None:
            workers = loading_workers(config.batch_size // trainer.world_size, images.geometry)
        checkpoint = newest_checkpoint(out) if start else None
        _loop(trainer, module, load(images, batches, workers=workers), checkpoint)
    seconds = time.monotonic() - began
    unseen, unreadable = decoded(apart, images.geometry)
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    judged = torch.from_numpy(unseen) if len(unseen) else first
    skipped = [*(files[i] for i in sorted(module.skipped)), *unreadable]
    summary = _summary(
        module,
        module.judge(judged),
        _followed(module, judged) if config.toward else None,
        start=start,
        images=len(files),
        skipped=len(skipped),
        seconds=seconds,
    )
    if trainer.is_global_zero:
        write_apart(out, [file for file in apart if file not in unreadable], Path(config.data))
        _write(out, module, summary, skipped)
    _part()
    return summary


def _loop(trainer: Trainer, module: MaskerTraining, loader: DataLoader, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # what Lightning makes of Ctrl-C, after it has shut down
        raise KeyboardInterrupt from error


def _followed(module: MaskerTraining, images: torch.Tensor) -> float:
    """How far masks follow their targets, with a warning where that is hardly."""
    followed = follow(module, images)
    if followed < LEAST_FOLLOWED:
        log.warning(
            "the masks hardly follow their targets (%.2f; 1 is entirely): train for more --steps or on more "
            "photographs, and do not ask them why two pictures match",
            followed,
        )
    return followed


def _encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder, with a warning where its weights also fit another model."""
    encoder = load_encoder(config)
    if config.weights and (others := siblings(encoder)):
        log.warning(
            "%s also fits %s, which computes something else with it; if it was made for that, say so with "
            "--encoder; --check PHOTO shows what each makes of a photograph",
            config.weights,
            " and ".join(others),
        )
    return encoder


def loading_workers(images: int, geometry: Geometry) -> int:
    """Of one process, for batches of so many images."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return default_workers(batch_bytes=images * geometry.height * geometry.width * 3, processes=processes)


def _list_id(files: list[Path], root: Path) -> str:
    names = "\n".join(file.relative_to(root).as_posix() for file in files)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def _check_share(config: TrainConfig, world: int) -> None:
    size = config.batch_size
    if size % world:
        raise InputError(
            f"--batch-size {size} for {world} processes",
            expected="a multiple of the number of processes",
            cure=f"--batch-size {-(-size // world) * world}",
        )
    if config.toward and size // world < FEWEST_TO_PAIR:
        raise InputError(
            f"--batch-size {size} for {world} processes, each of which pairs its own images",
            expected=f"{FEWEST_TO_PAIR} images a process",
            cure=f"--batch-size {FEWEST_TO_PAIR * world}, or --no-toward",
        )


def make_trainer(
    config: TrainConfig, out: Path, *, start: int, checkpoint_every: int, progress: bool
) -> Trainer:
    """Lightning's loop: one long epoch of `steps` batches, one checkpoint kept, no hidden sharding."""
    checkpoints = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=checkpoint_every,
        save_top_k=1,
        save_on_train_epoch_end=False,
    )
    callbacks: list[Callback] = [checkpoints]
    if progress:
        callbacks.append(_Bar(refresh_rate=max(1, min(10, config.steps // 100))))
    return Trainer(
        max_steps=config.steps,
        max_epochs=-1,
        benchmark=True,  # shapes are fixed: cuDNN may try which kernel is fastest
        precision=config.precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=CSVLogger(
            out, name="metrics", version=f"from-step-{start}", flush_logs_every_n_steps=LOG_EVERY
        ),
        log_every_n_steps=LOG_EVERY,
        default_root_dir=out,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        plugins=[_WholeCheckpoints()],
        **_processes(),
    )


def _processes() -> dict[str, Any]:
    """One device; under torchrun, those that torchrun started.  Lightning is not left to start its own."""
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world == 1:
        return {"devices": 1}
    return {"devices": local, "num_nodes": world // local, "strategy": "ddp"}


def _part() -> None:
    """Under torchrun: leave together, because a process group's threads outlive an interpreter that ends."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class _WholeCheckpoints(TorchCheckpointIO):
    """A checkpoint is written beside its place and renamed, so that a kill leaves it whole or not there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)


@contextmanager
def hush() -> Iterator[None]:
    """Lightning's advice that does not hold here: a frozen encoder is in eval mode on purpose, order is a
    function of the step, so the loader needs no state of its own, and the checkpoint folder is the run's."""
    unfounded = (
        "eval mode", "resuming from a checkpoint", "Checkpoint directory", "using `ckpt_path`",
        "num_workers", "log_every_n_steps", "LeafSpec",
    )  # fmt: skip
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for words in unfounded:
            warnings.filterwarnings("ignore", message=f".*{words}")
        try:
            yield
        finally:
            logger.setLevel(level)


def _summary(
    module: MaskerTraining,
    verdict: Verdict | None,
    followed: float | None,
    *,
    start: int,
    images: int,
    skipped: int,
    seconds: float,
) -> TrainingRecord:
    others = (torch, timm, lightning)
    loss, distance, area = torch.stack(list(module.recent)).mean(dim=0).tolist()
    return TrainingRecord(
        steps=module.config.steps,
        resumed_at=start,
        loss=loss,
        distance=distance,
        area=area,
        area_weight=module.area_weight or None,
        grey=None if verdict is None else verdict.grey,
        fault=None if verdict is None else verdict.fault(),
        follows=followed,
        processes=module.trainer.world_size,
        images=images,
        skipped=skipped,
        seconds=seconds,
        versions={"nemu": runtime.__version__, **{m.__name__: str(m.__version__) for m in others}},
    )


def _write(out: Path, module: MaskerTraining, summary: TrainingRecord, skipped: list[Path]) -> None:
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
