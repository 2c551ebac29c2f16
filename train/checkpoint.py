"""`masker.safetensors`: the trained decoder, and for which encoder it was trained.

Only the decoder's tensors are stored, never the encoder's; the metadata holds the encoder's
fingerprint and the training configuration.  Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from runtime.atomic import atomic_file
from runtime.errors import InputError, MaskerMismatch, SchemaError
from train.config import EncoderConfig, TrainConfig
from train.encoder import FrozenEncoder
from train.misfit import misfit
from train.nem import NEM
from train.zoo import load_encoder

FORMAT = "nemu-masker-1"


def save_masker(path: Path, nem: NEM, config: TrainConfig) -> None:
    """Write the decoder of `nem` atomically."""
    metadata = {
        "format": FORMAT,
        "encoder_fingerprint": nem.encoder.record.fingerprint,
        "encoder_embedding": nem.encoder.record.embedding,
        "encoder_input": json.dumps(dataclasses.asdict(nem.encoder.input)),
        "config": config.to_json(),
    }
    with atomic_file(path) as file:
        save_file({k: v.contiguous() for k, v in nem.masker.state_dict().items()}, file, metadata=metadata)


def read_config(path: Path) -> TrainConfig:
    """The training configuration inside a masker file; reads no tensors.

    Raises:
        InputError: no such file, or not a safetensors file.
        SchemaError: a safetensors file that is no masker of this version.
    """
    return TrainConfig.from_json(_metadata(path)["config"], source=str(path))


def load_nem(path: Path, *, weights: str | None = None, encoder: FrozenEncoder | None = None) -> NEM:
    """Encoder and masker together, in eval mode, on the CPU.

    Args:
        path: `masker.safetensors`.
        weights: where the encoder's weights are now, if not where the configuration says.
        encoder: an encoder already at hand, instead of loading the one that the configuration names.

    Raises:
        MaskerMismatch: the encoder, or its preprocessing, is not what the masker was trained for.
        InputError, SchemaError: see `read_config` and `train.zoo.load_encoder`.
    """
    metadata = _metadata(path)
    config = read_config(path)
    if encoder is None:
        encoder = load_encoder(_with_weights(config.encoder, weights, noted_in=path))
    record = encoder.record
    trained = (metadata["encoder_fingerprint"], metadata["encoder_embedding"])
    if (record.fingerprint, record.embedding) != trained:
        raise MaskerMismatch(
            f"{path} was trained for encoder {trained[0]} ({trained[1]} embedding), "
            f"this encoder is {record.fingerprint} ({record.embedding} embedding, {record.id})",
            expected="the very weights that the masker was trained on",
            cure="name their file with --weights, or train a masker for this encoder: python -m train",
        )
    input = json.dumps(dataclasses.asdict(encoder.input))
    if input != metadata["encoder_input"]:
        raise MaskerMismatch(
            f"{path} was trained with the input {metadata['encoder_input']}, this encoder has {input}",
            expected="the same size, mean, std and resize rule",
            cure="load it with the version of timm that it was trained with, or train again",
        )
    nem = NEM.of(config, encoder)
    tensors = load_file(path)
    if fault := misfit(nem.masker, tensors):
        raise SchemaError(
            f"{path} does not hold a masker `{config.masker}` for {record.id}: {fault}",
            expected="the tensors of that decoder, as this version makes it",
            cure="load it with the version of nemu that trained it, or train again",
        )
    nem.masker.load_state_dict(tensors)
    return nem.eval()


def _with_weights(config: EncoderConfig, weights: str | None, *, noted_in: Path) -> EncoderConfig:
    if weights is not None:
        return dataclasses.replace(config, weights=weights)
    if config.weights is not None and not Path(config.weights).is_file():
        raise InputError(
            f"{noted_in} was trained with the encoder weights {config.weights}, and no file is there",
            expected="the encoder's weights where they were, or where they are now",
            cure="name the file: --weights FILE.safetensors",
        )
    return config


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file",
            expected="a masker.safetensors",
            cure="train one: python -m train --encoder timm/resnet50 --data photographs/ --out runs/x",
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file ({error})",
            expected="a masker.safetensors, whole",
            cure="copy it again, or train again",
        ) from error
    if metadata.get("format") != FORMAT:
        raise SchemaError(
            f"{path} is marked {metadata.get('format', 'with no format')}",
            expected=f"a masker, marked {FORMAT}",
            cure="name the masker.safetensors that python -m train wrote, not an encoder's weights",
        )
    return metadata
