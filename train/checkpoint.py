"""`masker.safetensors`: the trained decoder, and the encoder that it was trained for.

Only the decoder's tensors are stored, never the encoder's; the metadata holds the encoder's fingerprint and
the training configuration.  Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from runtime.atomic import atomic_file
from runtime.errors import InputError, MaskerMismatch, SchemaError
from train.config import EncoderConfig, TrainConfig
from train.encoder.frozen import FrozenEncoder
from train.encoder.misfit import misfit
from train.encoder.zoo import load_encoder
from train.nem import NEM

FORMAT = "nemu-masker-1"


@dataclass(frozen=True, kw_only=True)
class MaskerFile:
    """The whole content of a masker file, which `open` reads once."""

    path: Path
    sha256: str
    """Digest of the file's bytes."""
    config: TrainConfig
    """The training run that wrote it."""
    encoder_fingerprint: str
    """sha256 of the encoder's weights; see `train.encoder.frozen.weights_fingerprint`."""
    encoder_embedding: str
    """Kind of the embedding: `pooled`, `head`, `cls` or `own`."""
    encoder_input: str
    """JSON of the encoder's `InputRecord`."""
    tensors: dict[str, Tensor]
    """State dict of the decoder, on the CPU."""

    @classmethod
    def open(cls, path: Path) -> MaskerFile:
        """Read a masker file.

        Raises:
            InputError: no such file, or not a safetensors file.
            SchemaError: a safetensors file that is not a masker of this version.
        """
        if not path.is_file():
            raise InputError(
                f"{path}: no such file",
                expected="a masker.safetensors",
                cure="train one: nemu train --encoder timm/resnet50 --data photographs/ --out runs/x",
            )
        data = path.read_bytes()
        try:
            tensors = safetensors.torch.load(data)
        except SafetensorError as error:
            raise InputError(
                f"{path} is not a safetensors file ({error})",
                expected="a complete masker.safetensors",
                cure="copy it again, or train again",
            ) from error
        metadata = _metadata(data)
        if metadata.get("format") != FORMAT:
            raise SchemaError(
                f"{path} is marked {metadata.get('format', 'with no format')}",
                expected=f"a masker, marked {FORMAT}",
                cure="name the masker.safetensors that nemu train wrote, not an encoder's weights",
            )
        return cls(
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            config=TrainConfig.from_json(metadata["config"], source=str(path)),
            encoder_fingerprint=metadata["encoder_fingerprint"],
            encoder_embedding=metadata["encoder_embedding"],
            encoder_input=metadata["encoder_input"],
            tensors=tensors,
        )

    def nem(self, *, weights: str | None = None, encoder: FrozenEncoder | None = None) -> NEM:
        """Encoder and masker together, in eval mode, on the CPU.

        Args:
            weights: where the encoder's weights are now, if not where the configuration says.
            encoder: an encoder that is already loaded, instead of the one that the configuration names.

        Raises:
            MaskerMismatch: the encoder, or its preprocessing, is not what the masker was trained for.
            InputError, SchemaError: the encoder cannot be loaded (`train.encoder.zoo.load_encoder`), or the
                tensors are not those of the decoder.
        """
        encoder = encoder or load_encoder(self._encoder_config(weights))
        self._check(encoder)
        nem = NEM.of(self.config, encoder)
        if fault := misfit(nem.masker, self.tensors):
            raise SchemaError(
                f"{self.path} does not hold a masker `{self.config.masker}` for {encoder.record.id}: {fault}",
                expected="the tensors of that decoder, as this version makes it",
                cure="load it with the version of nemu that trained it, or train again",
            )
        nem.masker.load_state_dict(self.tensors)
        return nem.eval()

    def _encoder_config(self, weights: str | None) -> EncoderConfig:
        config = self.config.encoder
        if weights is not None:
            return dataclasses.replace(config, weights=weights)
        if config.weights is not None and not Path(config.weights).is_file():
            raise InputError(
                f"{self.path} was trained with the encoder weights {config.weights}, and no file is there",
                expected="the encoder's weights where they were, or where they are now",
                cure="name the file: --weights FILE.safetensors",
            )
        return config

    def _check(self, encoder: FrozenEncoder) -> None:
        """Raise MaskerMismatch unless the masker was trained for this encoder and its preprocessing."""
        record, trained = encoder.record, (self.encoder_fingerprint, self.encoder_embedding)
        if (record.fingerprint, record.embedding) != trained:
            raise MaskerMismatch(
                f"{self.path} was trained for encoder {trained[0]} ({trained[1]} embedding), "
                f"this encoder is {record.fingerprint} ({record.embedding} embedding, {record.id})",
                expected="the same weights that the masker was trained on",
                cure="name their file with --weights, or train a masker for this encoder: nemu train",
            )
        input = json.dumps(dataclasses.asdict(encoder.input))
        if input != self.encoder_input:
            raise MaskerMismatch(
                f"{self.path} was trained with the input {self.encoder_input}, this encoder has {input}",
                expected="the same size, mean, std and resize rule",
                cure="load it with the version of timm that it was trained with, or train again",
            )


def _metadata(data: bytes) -> dict[str, str]:
    """Metadata of a valid safetensors file: the length of a JSON header in 8 bytes, then the header."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata


def save_masker(path: Path, nem: NEM, config: TrainConfig) -> None:
    """Write the decoder of `nem` atomically."""
    metadata = {
        "format": FORMAT,
        "encoder_fingerprint": nem.encoder.record.fingerprint,
        "encoder_embedding": nem.encoder.record.embedding,
        "encoder_input": json.dumps(dataclasses.asdict(nem.encoder.input)),
        "config": config.to_json(),
    }
    tensors = {k: v.contiguous() for k, v in nem.masker.state_dict().items()}
    with atomic_file(path) as file:
        safetensors.torch.save_file(tensors, file, metadata=metadata)


def read_config(path: Path) -> TrainConfig:
    """The training configuration inside a masker file; raises as `MaskerFile.open`."""
    return MaskerFile.open(path).config


def load_nem(path: Path, *, weights: str | None = None, encoder: FrozenEncoder | None = None) -> NEM:
    """Encoder and masker of a masker file; arguments and errors of `MaskerFile.open` and `MaskerFile.nem`."""
    return MaskerFile.open(path).nem(weights=weights, encoder=encoder)
