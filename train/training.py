"""What a masker learns: the objective on a batch, the optimiser, and what a checkpoint holds."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from runtime.errors import InputError
from train.config import TrainConfig
from train.encoder import FrozenEncoder
from train.folding import folded
from train.nem import NEM
from train.objective import OBJECTIVES, Batch, Terms, check_collapse
from train.occlusion import make_fill
from train.share import Share

log = logging.getLogger("nemu.train")

TAIL = 50
"""Steps over which a summary's loss, distance and area are averaged."""
LOG_EVERY = 10
"""Steps from one line of metrics to the next."""
ENCODERS = ("nem.encoder.", "frozen.")
"""What the names of the encoder's tensors begin with."""


class MaskerTraining(LightningModule):
    """The objective, the optimiser and the checkpoint of a NEM; only the masker learns.

    Args:
        files: identifies the list of images; a run is not resumed on another list.

    Batches: (images uint8 (N, H, W, 3), skipped file indices), see `train.data`.

    The step runs `frozen`, the encoder with its BatchNorms folded (`train.folding`), channels-last, once
    on the clean image and once on each masked one.  The host waits for a GPU only where it logs.
    """

    centre: Tensor

    def __init__(self, nem: NEM, config: TrainConfig, *, files: str) -> None:
        super().__init__()
        self.nem = nem
        self.config = config
        self.files = files
        self.area_weight = config.area_price
        self.skipped: set[int] = set()
        self.frozen = folded(nem.encoder) or _unfolded(nem)
        nem.masker.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("centre", torch.zeros(nem.encoder.record.dimension))  # (D,)
        self.recent: deque[Tensor] = deque(maxlen=TAIL)  # (3,) each: loss, distance, area
        self.logged: dict[str, float] = {}

    def training_step(self, batch: tuple[Tensor, Sequence[int]], batch_idx: int) -> Tensor:
        images, skipped = batch
        self.skipped.update(skipped)
        terms = self.terms(images, step=self.global_step)
        self.recent.append(torch.stack([terms.loss, terms.distance, terms.area]).detach())
        if (self.global_step + 1) % LOG_EVERY == 0:
            self._log()
        return terms.loss

    def _log(self) -> None:
        """Not by Lightning's `log`, which reads the values, and so makes the host wait, at every step."""
        self.logged = dict(zip(("loss", "distance", "area"), self.recent[-1].tolist(), strict=True))
        if self.logger is not None:
            self.logger.log_metrics(self.logged, step=self.global_step)

    def terms(self, images: Tensor, *, step: int) -> Terms:
        """The objective on a batch of uint8 images; its randomness is a function of (seed, step).

        Under torchrun they are this process's share of the batch.
        """
        x = self.frozen.normalize(images)
        with torch.no_grad():
            embedding, pyramid = self.frozen(x)
        generator, share = self._generator(step), Share.here()
        batch = Batch(
            x=x,
            embedding=embedding,
            logits=self.nem.masker(pyramid, x).squeeze(1).float(),
            fill=make_fill(self.config.fill, x, generator=generator, share=share),
            centre=self.centre,
            generator=generator,
            share=share,
        )
        return OBJECTIVES[self.config.objective](self._embed, batch, area_weight=self.area_weight)

    @torch.no_grad()
    def set_centre(self, images: Tensor) -> None:
        """Before training: the mean embedding of these uint8 images is the centre of the cosine."""
        batches = images.split(self.config.batch_size)
        embeddings = [self._embed(self.frozen.normalize(batch)).float() for batch in batches]
        self.centre = torch.cat(embeddings).mean(dim=0)

    @torch.no_grad()
    def check_collapse(self, images: Tensor) -> str | None:
        """Before training: the warning of `train.objective.CollapseCheck` for a batch of uint8 images."""
        if self.config.objective not in ("sparse", "plain", "contrastive"):
            return None
        x = self.frozen.normalize(images)
        fill = make_fill(self.config.fill, x, generator=self._generator(0))
        weight = self.area_weight
        return check_collapse(
            self._embed, self._embed(x), fill, centre=self.centre, area_weight=weight
        ).warning()

    def _embed(self, x: Tensor) -> Tensor:
        return self.frozen(x)[0]

    def on_train_end(self) -> None:
        """Files that any process had to skip are known to the first."""
        if torch.distributed.is_initialized():
            everyone: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, self.skipped)
            self.skipped = set().union(*everyone)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self.nem.masker.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        steps = self.config.steps
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.config.learning_rate, total_steps=steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The encoder is not ours to store: it is left out.  Which files there are is noted."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(ENCODERS)}
        checkpoint["files"] = self.files
        checkpoint["skipped"] = sorted(self.skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder at hand back in, so that Lightning's strict loading still holds.

        Raises:
            InputError: the folder of images is not what it was.
        """
        if checkpoint["files"] != self.files:
            raise InputError(
                f"the images in {self.config.data} are not those that the run was started with",
                expected="the same files, because their order is a function of the seed",
                cure="restore them, or start afresh with --force",
            )
        self.skipped.update(checkpoint["skipped"])
        encoder = {k: v for k, v in self.state_dict().items() if k.startswith(ENCODERS)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **encoder}

    def _generator(self, step: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.config.seed, step]).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(seed[0]))


def _unfolded(nem: NEM) -> FrozenEncoder:
    log.warning("folding the BatchNorms of %s would change it, so they stay", nem.encoder.record.id)
    return nem.encoder
