"""Training in the processes that torchrun starts: one device each, gradients averaged by DDP.

Every process takes its own rows of each batch (`train.data.Steps`) and draws its own random numbers
(`train.lightning_module.MaskerTraining.generator`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import LayerSync, TorchSyncBatchNorm
from torch import nn

from runtime.errors import InputError
from train.config import FEWEST_TO_PAIR, TrainConfig


class MaskerBatchNorm(LayerSync):
    """Lightning's `sync_batchnorm` for the masker alone.

    On the frozen encoder the conversion would replace timm's `BatchNormAct2d`, activation included.
    """

    def apply(self, model: Any) -> nn.Module:
        """Let the BatchNorms of `model.nem.masker` use the statistics of all processes' rows."""
        TorchSyncBatchNorm().apply(model.nem.masker)
        return model

    def revert(self, model: Any) -> nn.Module:
        """Undo `apply`."""
        TorchSyncBatchNorm().revert(model.nem.masker)
        return model


def devices() -> dict[str, Any]:
    """Lightning's options for one device or, under torchrun, for torchrun's processes."""
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world == 1:
        return {"devices": 1}
    return {"devices": local, "num_nodes": world // local, "strategy": "ddp"}


def batchnorm_plugins() -> list[MaskerBatchNorm]:
    """The synchronised BatchNorm where torch has it: on GPUs.

    On a CPU each process normalises by its own rows, and the first process's running statistics are kept.
    """
    return [MaskerBatchNorm()] if torch.cuda.is_available() and "WORLD_SIZE" in os.environ else []


def check_batch_size(config: TrainConfig, processes: int) -> None:
    """Raise InputError unless the processes can share a batch equally, with enough images each."""
    size = config.batch_size
    if size % processes:
        raise InputError(
            f"--batch-size {size} for {processes} processes",
            expected="a multiple of the number of processes",
            cure=f"--batch-size {-(-size // processes) * processes}",
        )
    if config.toward and size // processes < FEWEST_TO_PAIR:
        raise InputError(
            f"--batch-size {size} for {processes} processes, each of which pairs its own images",
            expected=f"{FEWEST_TO_PAIR} images a process",
            cure=f"--batch-size {FEWEST_TO_PAIR * processes}, or --no-toward",
        )
    if size < 2 * processes and config.steps > 1:
        raise InputError(
            f"--batch-size {size} for {processes} processes",
            expected="2 images a process, for the masker's batch statistics",
            cure=f"--batch-size {2 * processes}",
        )


def union(own: set[int]) -> set[int]:
    """The union of all processes' sets."""
    if not torch.distributed.is_initialized():
        return own
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return set().union(*everyone)


def leave_together() -> None:
    """Wait for the other processes, then leave the group, whose threads would outlive the interpreter."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
