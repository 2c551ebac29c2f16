"""A masker of `python -m train`: trained with given options, and as a method that explains."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from train.__main__ import WORTHLESS, config_of, parser
from train.__main__ import main as train
from train.encoder.frozen import FrozenEncoder


def settings(arguments: Sequence[str]) -> dict[str, Any]:
    """All that `python -m train` would train with, its defaults resolved; not where data and weights lie."""
    config = asdict(config_of(parser().parse_args([*arguments, "--data", "-", "--out", "-"])))
    del config["data"], config["encoder"]["weights"]
    return config


def train_masker(arguments: Sequence[str]) -> None:
    """Run `python -m train`; masks that are worth nothing are a result too.

    Raises:
        InputError: training failed; it has said why.
    """
    code = train([*arguments])
    if code not in (0, WORTHLESS):
        raise InputError(
            f"python -m train {shlex.join(arguments)} ended with {code}",
            expected="a trained masker",
            cure="see its message above",
        )


@torch.inference_mode()
def logits(masker: nn.Module, encoder: FrozenEncoder, x: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) → float32 (N, H, W) on the CPU, before the sigmoid."""
    return masker(encoder(x)[1], x).squeeze(1).float().cpu()


def mask(masker: nn.Module, encoder: FrozenEncoder, x: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) → float32 (N, H, W) in [0, 1], on the CPU."""
    return logits(masker, encoder, x).sigmoid()
