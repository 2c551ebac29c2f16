"""The Lightning module: the objective on a batch, the optimiser, and the checkpoint's content."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from runtime.errors import InputError
from train.config import TrainConfig
from train.distributed import union
from train.encoder.folding import folded
from train.encoder.frozen import FrozenEncoder
from train.masker import LateralMasker
from train.mixtures import worth
from train.nem import NEM
from train.objective import (
    AREA_PRICE,
    OBJECTIVES,
    TARGET_PRICE,
    WRONG_PRICE,
    Batch,
    Terms,
    constant_mask_cost,
)
from train.occlusion import make_fill
from train.pairs import mixed
from train.target import Target, level_means, likeness_loss
from train.verdict import Verdict

log = logging.getLogger("nemu.train")

TAIL = 50
"""Last steps over which a summary's loss, distance and area are averaged."""
FIRST_IMAGES = 128
"""Images measured before training: their mean embedding is the centre of a centred cosine, and the cost of
hiding them is the unit of the mask's price."""
TARGET_IMAGES = 512
"""Images measured before training for a masker with a target."""
LEAST_COST = 1e-4
"""Smallest cost of the empty mask: below it the embedding does not change when an image is hidden."""
LOG_EVERY = 10
"""Steps between two lines of metrics."""
SLOWER = 0.2
"""Learning rate of the parameters that were fitted before training, relative to that of the others."""
ENCODERS = ("nem.encoder.", "frozen.")
"""Prefixes of the names of the encoder's tensors."""


class MaskerTraining(LightningModule):
    """The objective, the optimiser and the checkpoint of a NEM; only the masker learns.

    Args:
        files: identifies the list of images; a run is not resumed on another list.

    Batches: (images uint8 (N, H, W, 3), skipped file indices), see `train.data`.

    The step runs `frozen`, the encoder with its BatchNorms folded (`train.encoder.folding`), channels-last,
    once on the clean image and once on each masked one.  The host waits for a GPU only when it logs.
    """

    centre: Tensor

    def __init__(self, nem: NEM, config: TrainConfig, *, files: str) -> None:
        super().__init__()
        self.nem = nem
        self.config = config
        self.files = files
        self.area_weight = config.area_weight or 0.0
        self.measured_weight = 0.0
        self.target_price = 1.0  # price of a pixel toward a target, in units of the area weight
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
        if (self.global_step + 1) % LOG_EVERY == 0 or self.global_step + 1 == self.config.steps:
            self._log()
        return terms.loss

    def _log(self) -> None:
        """Log the last step; Lightning's own `log` would wait for the GPU at every step."""
        self.logged = dict(zip(("loss", "distance", "area"), self.recent[-1].tolist(), strict=True))
        if self.logger is not None:
            self.logger.log_metrics(self.logged, step=self.global_step)

    def terms(self, images: Tensor, *, step: int) -> Terms:
        """The objective on this process's rows of a batch, uint8 (N, H, W, 3).

        Random numbers are a function of (seed, step, rank of the process).
        """
        objective = OBJECTIVES[self.config.objective]
        generator = self.generator(step, rank=self.global_rank)
        if not self.config.toward:
            batch = self._batch(images, generator)
            return objective(self.embed, batch, area_weight=self.area_weight)
        batch, likeness = self._with_targets(images, generator)
        terms = objective(self.embed, batch, area_weight=self.area_weight)
        return replace(terms, loss=terms.loss + likeness)

    def _batch(self, images: Tensor, generator: torch.Generator) -> Batch:
        x = self.frozen.normalize(images)
        with torch.no_grad():
            embedding, pyramid = self.frozen(x)
        return Batch(
            x=x,
            embedding=embedding,
            logits=self.nem.masker(pyramid, x).squeeze(1).float(),
            fill=make_fill(self.config.fill, x, generator=generator),
            centre=self.centre,
            generator=generator,
        )

    def _with_targets(self, images: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """A batch of half the images as they are and the others as pairs; and the loss of the likeness."""
        x = self.frozen.normalize(images)
        plain = len(x) // 2
        u, v, w = (x.roll(by, 0)[plain:] for by in range(3))  # partners are of the same process
        pairs = mixed(u, v, w, generator=generator)
        x = torch.cat([x[:plain], pairs.x])
        with torch.no_grad():
            own, pyramid = self.frozen(x)
            own, asked = own[:plain], self.embed(pairs.target)
            embedding = torch.cat([own, asked])
        logits, alike = self._asked()[0].with_likeness(pyramid, torch.cat([0 * own, asked]))
        price = self.target_price * (1 + WRONG_PRICE * pairs.wrong)
        price = torch.cat([price.new_ones(plain, *price.shape[1:]), price])
        batch = Batch(
            x=x,
            embedding=embedding,
            logits=logits.squeeze(1).float(),
            fill=make_fill(self.config.fill, x, generator=generator),
            centre=self.centre,
            generator=generator,
            price=price,
        )
        return batch, likeness_loss([level[plain:] for level in alike], 1 - pairs.wrong, pairs.known)

    def prepare(self, images: Tensor, *, resumed: bool = False) -> None:
        """Set the centre, the price of the area and the fit of the target, before training.

        Args:
            images: uint8 (N, H, W, 3); the first FIRST_IMAGES give the centre and the price.
            resumed: the fit of the target comes from the checkpoint.
        """
        first = images[:FIRST_IMAGES]
        if self.config.centred:
            self.set_centre(first)
        self.price_area(first)
        if self.config.toward and not resumed:
            masker, target = self._asked()
            target.centre.copy_(self.centre)
            parts = (part.to(self.device) for part in images.split(self.config.batch_size))
            target.fit(*level_means(self.frozen, masker.taps[: len(target.key)], parts))
            self.target_price = TARGET_PRICE * max(worth(self, first), LEAST_COST) / self.measured_weight

    def _asked(self) -> tuple[LateralMasker, Target]:
        """The masker and its part that takes a target."""
        masker: Any = self.nem.masker
        return masker, masker.target

    @torch.no_grad()
    def set_centre(self, images: Tensor) -> None:
        """Set the centre of the cosine to the mean embedding of uint8 images (N, H, W, 3)."""
        batches = images.to(self.device).split(self.config.batch_size)
        embeddings = [self.embed(self.frozen.normalize(batch)).float() for batch in batches]
        self.centre = torch.cat(embeddings).mean(dim=0)

    def price_area(self, images: Tensor) -> None:
        """Measure the cost of the empty mask on uint8 images (N, H, W, 3), mean over fills.

        It sets `measured_weight`, and `area_weight` if the configuration has none; see
        `train.objective.AREA_PRICE`.

        Raises:
            InputError: hiding a whole image does not change its embedding.
        """
        if self.config.objective == "ranking":
            return
        cost = self._mean(images, lambda batch: self._constant(batch, 0.0, area_weight=0.0))
        if not cost > LEAST_COST:
            raise InputError(
                f"an image hidden behind --fill {self.config.fill} costs {cost:.1e} of the objective",
                expected="an embedding that changes when the whole image is hidden",
                cure="check --weights, --mean and --std, or choose another --fill",
            )
        self.measured_weight = AREA_PRICE * cost
        if self.config.area_weight is None:
            self.area_weight = self.measured_weight

    def judge(self, images: Tensor) -> Verdict | None:
        """The verdict on the masks of uint8 images (N, H, W, 3), after training; None for a ranking."""
        if self.config.objective == "ranking":
            return None
        weight, level = self.area_weight, list[Tensor]()

        def loss(batch: Batch) -> Tensor:
            level.append(batch.logits.sigmoid())
            return OBJECTIVES[self.config.objective](self.embed, batch, area_weight=weight).loss

        own = self._mean(images, loss)
        empty = self._mean(images, lambda batch: self._constant(batch, 0.0, area_weight=weight))
        full = self._mean(images, lambda batch: self._constant(batch, 1.0, area_weight=weight))
        return Verdict.of(
            torch.cat(level),
            loss=own,
            empty_cost=empty,
            full_cost=full,
            area_weight=weight,
            measured_weight=None if self.config.area_weight is None else self.measured_weight,
        )

    def _constant(self, batch: Batch, value: float, *, area_weight: float) -> Tensor:
        objective = self.config.objective
        return constant_mask_cost(objective, self.embed, batch, value=value, area_weight=area_weight).loss

    @torch.no_grad()
    def _mean(self, images: Tensor, of: Callable[[Batch], Tensor]) -> float:
        """Mean over images of a quantity `of` their batches, with the fills of step 0."""
        parts = images.to(self.device).split(self.config.batch_size)
        training = self.nem.masker.training
        self.nem.masker.eval()  # so that its running statistics do not change
        total = sum(len(part) * of(self._batch(part, self.generator(0))).item() for part in parts)
        self.nem.masker.train(training)
        return total / len(images)

    def embed(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) → embeddings (N, D), by the folded encoder."""
        return self.frozen(x)[0]

    def on_train_end(self) -> None:
        """Collect the files that any process skipped."""
        self.skipped = union(self.skipped)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate rises over a tenth of the steps and falls to nearly 0 (one cycle)."""
        rate = self.config.learning_rate
        slow: list[nn.Parameter] = self._asked()[1].fitted() if self.config.toward else []
        rest = [p for p in self.nem.masker.parameters() if all(p is not q for q in slow)]
        groups = [{"params": part} for part in (rest, slow) if part]
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=self.config.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[rate, SLOWER * rate][: len(groups)],
            total_steps=self.config.steps + 1,
            pct_start=0.1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store no tensors of the encoder; note the list of files and what was measured."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(ENCODERS)}
        checkpoint["files"] = self.files
        checkpoint["area_weight"] = self.area_weight
        checkpoint["target_price"] = self.target_price
        checkpoint["skipped"] = sorted(self.skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the loaded encoder's tensors, because Lightning loads strictly.

        Raises:
            InputError: the folder holds other images than at the start.
        """
        if checkpoint["files"] != self.files:
            raise InputError(
                f"the images in {self.config.data} are not those that the run began with",
                expected="the same files, because their order is a function of the seed",
                cure="restore them, or start afresh with --force",
            )
        self.skipped.update(checkpoint["skipped"])
        # another device measures a slightly different value; old checkpoints have none
        self.area_weight = checkpoint.get("area_weight", self.area_weight)
        self.target_price = checkpoint.get("target_price", self.target_price)
        encoder = {k: v for k, v in self.state_dict().items() if k.startswith(ENCODERS)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **encoder}

    def generator(self, step: int, *, rank: int = 0) -> torch.Generator:
        """The source of a step's random numbers in one process, on this module's device."""
        seed = np.random.SeedSequence([self.config.seed, step, rank]).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(seed[0]))


def _unfolded(nem: NEM) -> FrozenEncoder:
    log.warning("folding the BatchNorms of %s would change it, so they stay", nem.encoder.record.id)
    return nem.encoder
