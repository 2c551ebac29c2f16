"""Lightning's trainer as a run uses it: its callbacks, checkpoints and warnings."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from runtime.atomic import atomic_file
from train.config import TrainConfig
from train.distributed import batchnorm_plugins, devices
from train.lightning_module import LOG_EVERY, MaskerTraining


class _Bar(TQDMProgressBar):
    """A progress bar with the last logged loss, embedding distance and mask area."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return dict(pl_module.logged) if isinstance(pl_module, MaskerTraining) else {}


def make_trainer(
    config: TrainConfig, out: Path, *, start: int, checkpoint_every: int, progress: bool
) -> Trainer:
    """Lightning's loop: one epoch of `steps` batches, one checkpoint kept, no sampler of its own."""
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
        benchmark=True,  # shapes are fixed, so cuDNN may search for the fastest kernel
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
        plugins=[_WholeCheckpoints(), *batchnorm_plugins()],
        **devices(),
    )


class _WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it, so that a kill leaves no partial file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)


@contextmanager
def hush() -> Iterator[None]:
    """Silence Lightning's warnings that do not apply here.

    The frozen encoder is in eval mode on purpose, the loader needs no state because the order is a function
    of the step, and the checkpoint folder is the run's own.
    """
    silenced = (
        "eval mode", "resuming from a checkpoint", "Checkpoint directory", "using `ckpt_path`",
        "num_workers", "log_every_n_steps", "LeafSpec",
    )  # fmt: skip
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for words in silenced:
            warnings.filterwarnings("ignore", message=f".*{words}")
        try:
            yield
        finally:
            logger.setLevel(level)
