"""Where the time of a training step goes, and when each step ended."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Stopwatch:
    """Each `mark` charges the time since the last one to a stage.

    Args:
        stages: clock the stages; otherwise only the ends of steps, and a GPU is left to run ahead.
        warm_up: steps that are not counted.
    """

    def __init__(self, *, stages: bool, warm_up: int, steps: int) -> None:
        self.stages, self.warm_up, self.steps = stages, warm_up, steps
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._ended = 0
        self._last = self._first_counted = self._end = 0.0

    def start(self) -> None:
        """A run begins."""
        self._last = _now()

    def mark(self, stage: str) -> None:
        """A stage has ended."""
        if not self.stages:
            return
        now = _now()
        if self._ended >= self.warm_up:
            self.seconds[stage] += now - self._last
        self._last = now

    def end_step(self) -> None:
        """A step has ended; of its time, what is left is the optimiser's."""
        self.mark("optimiser and loop")
        self._ended += 1
        if self._ended == self.warm_up:
            self._first_counted = _now()
        if self._ended == self.warm_up + self.steps:
            self._end = _now()

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a step after the warm-up, loading included."""
        return (self._end - self._first_counted) / self.steps

    @property
    def shares(self) -> dict[str, float]:
        """Share of the whole time that each stage takes."""
        whole = sum(self.seconds.values())
        return {stage: seconds / whole for stage, seconds in self.seconds.items()}

    def watch(self, encoder: nn.Module, masker: nn.Module) -> None:
        """Mark the passes through two modules; a pass that needs no gradient is a clean one."""
        if not self.stages:
            return

        def before(*_: Any) -> None:
            self.mark("mask, fill and loss")

        def after_encoder(_m: nn.Module, _i: Any, outputs: tuple[Tensor, list[Tensor]]) -> None:
            self.mark("forward: masked images" if outputs[0].requires_grad else "forward: clean image")

        def after_masker(_m: nn.Module, _i: Any, logits: Tensor) -> None:
            self.mark("forward: masker")
            logits.register_hook(lambda _: self.mark("backward: encoder"))

        for module, after in ((encoder, after_encoder), (masker, after_masker)):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


class StopwatchCallback(Callback):
    """Lightning's loop tells the stopwatch."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopwatch.start()

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self.stopwatch.mark("loading")

    def on_before_backward(self, *_: Any, **__: Any) -> None:
        self.stopwatch.mark("mask, fill and loss")

    def on_after_backward(self, *_: Any, **__: Any) -> None:
        self.stopwatch.mark("backward: masker")

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.stopwatch.end_step()


def _now() -> float:
    """Seconds, with nothing left to do on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
