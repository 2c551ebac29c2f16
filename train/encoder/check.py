"""Whether weights belong to the encoder, judged by the classes that it names for one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from runtime.errors import InputError
from runtime.media.geometry import Geometry, load_image
from train.config import EncoderConfig
from train.encoder.siblings import siblings
from train.encoder.zoo import load_encoder

BEST = 5


def check(config: EncoderConfig, photograph: Path) -> dict[str, list[tuple[str, float]]]:
    """The classes that the encoder and each of its siblings name for an image with the same weights.

    Returns:
        For each encoder, the configured one first: its five best ImageNet classes with their probabilities.

    Raises:
        InputError: the head does not name ImageNet's classes; see also `train.encoder.zoo.load_encoder`.
    """
    image, encoder = load_image(photograph), load_encoder(config)
    if not config.encoder.startswith("timm/"):
        raise _no_classes(config.encoder, "is your own")
    if not encoder.model.model.num_classes:  # type: ignore[union-attr]
        raise _no_classes(config.encoder, "has no head")
    names = [config.encoder, *(siblings(encoder) if config.weights else ())]
    return {name: _classes(replace(config, encoder=name), image) for name in names}


@torch.no_grad()
def _classes(config: EncoderConfig, image: np.ndarray) -> list[tuple[str, float]]:
    encoder = load_encoder(replace(config, embedding="head", l2_normalize=False))
    fitted, _ = Geometry.from_record(encoder.input).fit(image)
    logits = encoder(encoder.normalize(torch.tensor(fitted)[None]))[0][0]
    subset = infer_imagenet_subset({"num_classes": len(logits)})
    if subset is None:
        raise _no_classes(config.encoder, f"has a head of {len(logits)} outputs")
    names = ImageNetInfo(subset)
    best = logits.softmax(0).topk(BEST)
    return [
        (names.index_to_description(i), p)
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _no_classes(name: str, why: str) -> InputError:
    return InputError(
        f"--check with --encoder {name}, which {why}",
        expected="a timm classifier that names ImageNet's classes",
        cure="compare its embeddings with known ones, or use weights that include the head",
    )
