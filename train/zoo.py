"""Where encoders come from: timm by name, or a module of one's own by `module:factory`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from runtime.errors import InputError
from runtime.records import InputRecord
from train.config import EncoderConfig
from train.encoder import FrozenEncoder, weights_fingerprint
from train.hub import without_retries
from train.misfit import misfit


def load_encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder that a configuration names.

    Raises:
        InputError: no such model, weights that do not fit, or a size that it does not take.
    """
    if config.encoder.startswith("timm/"):
        return _timm_encoder(config)
    if ":" in config.encoder:
        return _own_encoder(config)
    guess = f"timm/{config.encoder}" if timm.is_model(config.encoder) else "timm/resnet50"
    raise InputError(
        f"--encoder {config.encoder}",
        expected="timm/NAME, or module:factory for an encoder of your own",
        cure=f"--encoder {guess}",
    )


class TimmFeatures(nn.Module):
    """A timm model as (embedding, pyramid) in one `forward_intermediates`.

    Args:
        taps: feature maps that form the pyramid.  By default a CNN or hierarchical transformer gives
            every stage it has, one a stride.  A plain ViT has a single stride, so its pyramid is depth:
            four blocks, evenly spaced, ending with the last, from which the embedding is made (the
            authors tap blocks 3, 5, 7, 9 and 11 of 12 and never the last).
    """

    def __init__(self, model: nn.Module, *, embedding: str, taps: Sequence[int] | None) -> None:
        super().__init__()
        self.model = model
        self.embedding = embedding
        reductions = [f["reduction"] for f in _stages(model)]
        if taps is None:
            n = len(reductions)
            single_stride = len(set(reductions)) == 1 and n > 4
            taps = [round(n * k / 4) - 1 for k in (1, 2, 3, 4)] if single_stride else range(n)
        self.taps = list(taps)
        if not self.taps or self.taps != sorted(set(self.taps) & set(range(len(reductions)))):
            raise InputError(
                f"--taps {' '.join(map(str, self.taps))}",
                expected=f"increasing indices in 0..{len(reductions) - 1}, the feature maps of this model",
                cure="leave --taps out to use the default",
            )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Normalised images (N, 3, H, W) → embedding (N, D), pyramid shallow to deep."""
        model: Any = self.model
        features, pyramid = model.forward_intermediates(x, indices=self.taps, output_fmt="NCHW")
        if self.embedding == "cls":
            return features[:, 0], pyramid
        return model.forward_head(features, pre_logits=self.embedding == "pooled"), pyramid


def _timm_encoder(config: EncoderConfig) -> FrozenEncoder:
    name = config.encoder.removeprefix("timm/")
    model = _create(name, config.weights)
    fingerprint = weights_fingerprint(model)
    cfg = resolve_data_config(model=model)
    height, width = config.image_size or cfg["input_size"][1:]
    _fit_size(model, name, height, width)
    rule = _resize_rule(name, cfg["crop_mode"], config.resize)
    resize = config.resize or rule
    embedding = config.embedding or ("head" if _has_projection(model, name) else "pooled")
    _check_embedding(model, name, embedding)
    return FrozenEncoder(
        TimmFeatures(model, embedding=embedding, taps=config.taps),
        id=config.encoder,
        embedding=embedding,
        input=InputRecord(
            name="image",
            height=height,
            width=width,
            mean=config.mean or tuple(cfg["mean"]),
            std=config.std or tuple(cfg["std"]),
            resize=resize,
            crop_pct=cfg["crop_pct"] if resize in (rule, "crop") else 1.0,
            interpolation=cfg["interpolation"] if cfg["interpolation"] == "bicubic" else "bilinear",
        ),
        l2_normalize=config.l2_normalize,
        license=(not config.weights and model.pretrained_cfg.get("license")) or "unknown",
        fingerprint=fingerprint,
    )


def _create(name: str, weights: str | None) -> Any:
    """The timm model with its weights: pretrained as timm loads them, or from a safetensors file."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        raise InputError(
            f"--encoder timm/{name}: timm {timm.__version__} has no such model",
            expected="a name that timm.list_models() gives",
            cure="did you mean " + (" or ".join(f"timm/{n}" for n in near) or "timm/resnet50") + "?",
        )
    if weights is None:
        return _timm_model(name, pretrained=True)
    if not Path(weights).is_file():
        raise InputError(
            f"--weights {weights}: no such file",
            expected="a safetensors file with the encoder's state dict",
            cure="correct the path (relative to where you are), or leave --weights out for timm's own",
        )
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise InputError(
            f"--weights {weights} is not a safetensors file ({error})",
            expected="a safetensors file with the encoder's state dict",
            cure=_how_to_convert(weights),
        ) from error
    model = _timm_model(name)
    if {k: v.shape for k, v in model.state_dict().items()} != {k: v.shape for k, v in tensors.items()}:
        model = _timm_model(name, num_classes=_classes(model, tensors))
    _load(model, tensors, weights)
    return model


def _how_to_convert(weights: str) -> str:
    """How to make a safetensors file: of a file that torch wrote, or else of a model in Python."""
    with open(weights, "rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # torch.save's zip, and the pickle that it wrote before
        return "write one: safetensors.torch.save_file(model.state_dict(), 'encoder.safetensors')"
    return f"""convert it, in Python (a key other than state_dict, such as model, may hold the tensors):
    import torch, safetensors.torch
    found = torch.load({weights!r}, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    tensors = {{k.removeprefix("module."): v.clone() for k, v in found.items()}}
    safetensors.torch.save_file(tensors, "encoder.safetensors")"""


def _classes(model: Any, tensors: Mapping[str, Tensor]) -> int:
    """How many classes the head in a state dict has; 0 where there is none."""
    classifier = model.pretrained_cfg.get("classifier") or ""
    name = classifier if isinstance(classifier, str) else classifier[0]
    heads = [v for k, v in tensors.items() if name and k.startswith(f"{name}.") and v.ndim in (2, 4)]
    return heads[-1].shape[0] if heads else 0


def _timm_model(name: str, **options: Any) -> Any:
    """timm.create_model, without weights unless asked for."""
    try:
        with without_retries() if options.get("pretrained") else nullcontext():
            return timm.create_model(name, **{"pretrained": False, **options})
    except (OSError, RuntimeError) as error:  # no connection; no such tag; no weights published
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise InputError(
            f"--encoder timm/{name}: {str(error).splitlines()[0]}",
            expected="pretrained weights that timm can load: "
            + (", ".join(tags[:5]) or "none are published"),
            cure="check name and connection, or give your own weights with --weights FILE.safetensors",
        ) from error


def _load(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    if fault := misfit(model, tensors):
        raise InputError(
            f"--weights {source} does not fit {type(model).__name__}: {fault}",
            expected="the state dict of exactly this timm model",
            cure="name the model that the weights were made with, as --encoder timm/NAME",
        )
    model.load_state_dict(tensors)


def _stages(model: Any) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise InputError(
            f"{type(model).__name__} has no forward_intermediates",
            expected="a timm model that gives its intermediate features",
            cure="wrap it as module:factory, with a forward that returns (embedding, pyramid)",
        )
    return list(info)


def _fit_size(model: Any, name: str, height: int, width: int) -> None:
    """Tell the model the image size, or say which near one it would take."""
    refusal = _refusal(model, height, width)
    if refusal is None:
        return
    step = max(stage["reduction"] for stage in _stages(model))
    near = sorted(
        ((max(1, height // step + i) * step, max(1, width // step + j) * step) for i in STEPS for j in STEPS),
        key=lambda size: abs(size[0] - height) + abs(size[1] - width),
    )
    works = next((size for size in dict.fromkeys(near) if _refusal(model, *size) is None), None)
    raise InputError(
        f"--image-size {height} {width} for timm/{name}: {refusal}",
        expected="a size that the model takes" + (f", such as multiples of {step}" if works else ""),
        cure=f"--image-size {works[0]} {works[1]}, the nearest" if works else "leave --image-size out",
    )


STEPS = (0, 1, 2, 3, -1, -2)
"""Multiples of the coarsest stride, from the one below, that are tried for a size that is refused."""


@torch.no_grad()
def _refusal(model: Any, height: int, width: int) -> str | None:
    """Why the model does not run at this size, or None if it does; timm says no in many ways."""
    strides = {stage["reduction"] for stage in _stages(model)}
    if len(strides) == 1 and (height % min(strides) or width % min(strides)):
        return f"its patches of {min(strides)} pixels would leave the border unseen"
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(height, width))
        model.eval()(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def _has_projection(model: Any, name: str) -> bool:
    """CLIP's projection head is its embedding; a CLIP tower fine-tuned to name classes has none."""
    return (
        "clip" in name and bool(model.num_classes) and "_ft_in" not in (model.pretrained_cfg.get("tag") or "")
    )


def _resize_rule(name: str, crop_mode: str, chosen: str | None) -> str:
    rules = {"center": "crop", "squash": "squash"}
    if crop_mode not in rules:
        if chosen:
            return chosen
        raise InputError(
            f"timm/{name} is preprocessed with crop mode {crop_mode}",
            expected="a rule that is written down: crop, squash or letterbox",
            cure="choose one with --resize",
        )
    return rules[crop_mode]


def _check_embedding(model: Any, name: str, embedding: str) -> None:
    if embedding == "cls" and getattr(model, "cls_token", None) is None:
        raise InputError(
            f"--embedding cls, but timm/{name} has no class token",
            expected="pooled or head",
            cure="--embedding pooled",
        )
    if embedding == "head" and not model.num_classes:
        raise InputError(
            f"--embedding head, but timm/{name} has no head",
            expected="pooled or cls",
            cure="--embedding pooled",
        )


def _own_encoder(config: EncoderConfig) -> FrozenEncoder:
    """`module:factory`: the size and normalisation must be stated, they cannot be guessed."""
    module_name, _, factory_name = config.encoder.partition(":")
    if os.getcwd() not in sys.path:  # a console script does not look where the user stands
        sys.path.append(os.getcwd())
    try:
        factory: Callable[[], nn.Module] = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--encoder {config.encoder}: {error}",
            expected="an importable module and a function in it that takes nothing",
            cure="run from the folder that holds the module, or set PYTHONPATH",
        ) from error
    missing = [
        flag
        for flag, value in (
            ("--image-size", config.image_size),
            ("--mean", config.mean),
            ("--std", config.std),
            ("--resize", config.resize),
        )
        if value is None
    ]
    if missing or config.image_size is None or config.mean is None or config.std is None:
        raise InputError(
            f"--encoder {config.encoder} without {', '.join(missing)}",
            expected="the preprocessing that the encoder was trained with",
            cure="e.g. --image-size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --resize crop",
        )
    for flag, value in (
        ("--weights", config.weights), ("--taps", config.taps), ("--embedding", config.embedding),
    ):  # fmt: skip
        if value is not None:
            raise InputError(
                f"{flag} with --encoder {config.encoder}",
                expected=f"{flag} only for timm encoders",
                cure=f"let {factory_name}() take care of it",
            )
    return FrozenEncoder(
        factory(),
        id=config.encoder,
        embedding="own",
        input=InputRecord(
            name="image",
            height=config.image_size[0],
            width=config.image_size[1],
            mean=config.mean,
            std=config.std,
            resize=config.resize or "crop",
            crop_pct=1.0,
            interpolation="bilinear",
        ),
        l2_normalize=config.l2_normalize,
    )
