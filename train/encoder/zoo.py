"""Where encoders come from: timm by name, or the user's own module by `module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

import timm
from torch import nn

from runtime.errors import InputError
from runtime.package.records import InputRecord
from train.config import EncoderConfig
from train.encoder.frozen import FrozenEncoder
from train.encoder.timm_encoder import timm_encoder


def load_encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder that a configuration names.

    Raises:
        InputError: no such model, weights that do not fit, or a size that it does not take.
    """
    if config.encoder.startswith("timm/"):
        return timm_encoder(config)
    if ":" in config.encoder:
        return _own_encoder(config)
    guess = f"timm/{config.encoder}" if timm.is_model(config.encoder) else "timm/resnet50"
    raise InputError(
        f"--encoder {config.encoder}",
        expected="timm/NAME, or module:factory for an encoder of your own",
        cure=f"--encoder {guess}",
    )


def _own_encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder `module:factory`, whose preprocessing must be stated."""
    factory, input = _factory(config.encoder), _stated_input(config)
    for flag, value in (
        ("--weights", config.weights), ("--taps", config.taps), ("--embedding", config.embedding),
    ):  # fmt: skip
        if value is not None:
            raise InputError(
                f"{flag} with --encoder {config.encoder}",
                expected=f"{flag} only for timm encoders",
                cure=f"let {config.encoder.partition(':')[2]}() take care of it",
            )
    return FrozenEncoder(
        factory(), id=config.encoder, embedding="own", input=input, l2_normalize=config.l2_normalize
    )


def _factory(name: str) -> Callable[[], nn.Module]:
    """The function `module:factory`, looked for in the current folder too."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # a console script does not search the current folder
        sys.path.append(os.getcwd())
    try:
        factory: Callable[[], nn.Module] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--encoder {name}: {error}",
            expected="an importable module and a function in it without arguments",
            cure="run from the folder that holds the module, or set PYTHONPATH",
        ) from error
    return factory


def _stated_input(config: EncoderConfig) -> InputRecord:
    """The preprocessing that the configuration states; raises InputError if it states only a part."""
    size, mean, std, resize = config.image_size, config.mean, config.std, config.resize
    if size is None or mean is None or std is None or resize is None:
        stated = {"--image-size": size, "--mean": mean, "--std": std, "--resize": resize}
        missing = ", ".join(flag for flag, value in stated.items() if value is None)
        raise InputError(
            f"--encoder {config.encoder} without {missing}",
            expected="the preprocessing that the encoder was trained with",
            cure="e.g. --image-size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --resize crop",
        )
    return InputRecord(
        name="image",
        height=size[0],
        width=size[1],
        mean=mean,
        std=std,
        resize=resize,
        crop_pct=1.0,
        interpolation="bilinear",
    )
