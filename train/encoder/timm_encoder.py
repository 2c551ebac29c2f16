"""Encoders of timm by name: their weights, input size, preprocessing and embedding."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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
from runtime.package.records import InputRecord
from train.config import EncoderConfig
from train.encoder.frozen import FrozenEncoder, weights_fingerprint
from train.encoder.hub import without_retries
from train.encoder.misfit import misfit

STEPS = (0, 1, 2, 3, -1, -2)
"""Sizes to suggest for a refused one: multiples of the coarsest stride, counted from the one below."""


def timm_encoder(config: EncoderConfig) -> FrozenEncoder:
    """The encoder `timm/NAME`; raises InputError as `train.encoder.zoo.load_encoder`."""
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


class TimmFeatures(nn.Module):
    """A timm model as (embedding, pyramid) in one `forward_intermediates`.

    Args:
        taps: indices of the feature maps that form the pyramid.  By default a CNN or hierarchical transformer
            gives all its stages.  A plain ViT, which has a single stride, gives four blocks, evenly spaced
            and ending with the last, from which the embedding is made (the authors tap blocks 3, 5, 7, 9 and
            11 of 12 and never the last).

    Raises:
        InputError: taps that the model does not have, or a model without `forward_intermediates`.
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
    tensors, model = _read_weights(weights), _timm_model(name)
    if {k: v.shape for k, v in model.state_dict().items()} != {k: v.shape for k, v in tensors.items()}:
        model = _timm_model(name, num_classes=_classes(model, tensors))
    _load(model, tensors, weights)
    return model


def _read_weights(weights: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises InputError if there is no such file, or it is another."""
    if not Path(weights).is_file():
        raise InputError(
            f"--weights {weights}: no such file",
            expected="a safetensors file with the encoder's state dict",
            cure="correct the path (relative to the current folder), or leave --weights out for timm's own",
        )
    try:
        return load_file(weights)
    except SafetensorError as error:
        raise InputError(
            f"--weights {weights} is not a safetensors file ({error})",
            expected="a safetensors file with the encoder's state dict",
            cure=_how_to_convert(weights),
        ) from error


def _how_to_convert(weights: str) -> str:
    """How to make a safetensors file from a file that torch wrote, or else from a model in Python."""
    with open(weights, "rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # torch.save's zip, and its older pickle
        return "write one: safetensors.torch.save_file(model.state_dict(), 'encoder.safetensors')"
    return f"""convert it, in Python (a key other than state_dict, such as model, may hold the tensors):
    import torch, safetensors.torch
    found = torch.load({weights!r}, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    tensors = {{k.removeprefix("module."): v.clone() for k, v in found.items()}}
    safetensors.torch.save_file(tensors, "encoder.safetensors")"""


def _classes(model: Any, tensors: Mapping[str, Tensor]) -> int:
    """Number of classes of the head in a state dict; 0 without a head."""
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
    """Load a state dict; raises InputError if it does not fit exactly."""
    if fault := misfit(model, tensors):
        raise InputError(
            f"--weights {source} does not fit {type(model).__name__}: {fault}",
            expected="the state dict of exactly this timm model",
            cure="name the model that the weights were made with, as --encoder timm/NAME",
        )
    model.load_state_dict(tensors)


def _stages(model: Any) -> list[dict[str, Any]]:
    """timm's description of the model's feature maps, shallow to deep."""
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise InputError(
            f"{type(model).__name__} has no forward_intermediates",
            expected="a timm model with intermediate features",
            cure="wrap it as module:factory, with a forward that returns (embedding, pyramid)",
        )
    return list(info)


def _fit_size(model: Any, name: str, height: int, width: int) -> None:
    """Set the model's image size; raises InputError with the nearest size that the model takes."""
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


@torch.no_grad()
def _refusal(model: Any, height: int, width: int) -> str | None:
    """Why the model does not run at this size; None if it does."""
    strides = {stage["reduction"] for stage in _stages(model)}
    if len(strides) == 1 and (height % min(strides) or width % min(strides)):
        return f"its patches of {min(strides)} pixels do not cover the border"
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(height, width))
        model.eval()(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def _has_projection(model: Any, name: str) -> bool:
    """Whether the head is CLIP's projection; a CLIP tower that was fine-tuned to classes has none."""
    return (
        "clip" in name and bool(model.num_classes) and "_ft_in" not in (model.pretrained_cfg.get("tag") or "")
    )


def _resize_rule(name: str, crop_mode: str, chosen: str | None) -> str:
    """The resize rule of timm's crop mode, or the chosen one where timm's has no name here."""
    rules = {"center": "crop", "squash": "squash"}
    if crop_mode not in rules:
        if chosen:
            return chosen
        raise InputError(
            f"timm/{name} is preprocessed with crop mode {crop_mode}",
            expected="a known rule: crop, squash or letterbox",
            cure="choose one with --resize",
        )
    return rules[crop_mode]


def _check_embedding(model: Any, name: str, embedding: str) -> None:
    """Raise InputError for a class token or a head that the model does not have."""
    for kind, other, part, exists in (
        ("cls", "head", "class token", getattr(model, "cls_token", None) is not None),
        ("head", "cls", "head", bool(model.num_classes)),
    ):
        if embedding == kind and not exists:
            raise InputError(
                f"--embedding {kind}, but timm/{name} has no {part}",
                expected=f"pooled or {other}",
                cure="--embedding pooled",
            )
