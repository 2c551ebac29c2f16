"""Graphs to time: an encoder with random weights under any decoder, and onnxruntime sessions of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from safetensors.torch import save_file

from benchmarks.common.interleave import Call
from export.graph import from_torch
from export.graph.fuse import Fused
from runtime.package.manifest import TOWARD
from train.config import EncoderConfig
from train.encoder.frozen import FrozenEncoder
from train.encoder.zoo import load_encoder
from train.nem import NEM


def random_weights(name: str, path: Path) -> None:
    """The encoder's own initialisation, seeded, as a safetensors file.

    But LayerScale starts at 1 instead of 1e-5, at which a class token hardly sees the image and every
    embedding is the same.
    """
    torch.manual_seed(0)
    state = timm.create_model(name.removeprefix("timm/"), pretrained=False).state_dict()
    save_file({k: torch.ones_like(v) if k.endswith("gamma") else v for k, v in state.items()}, path)


def random_encoder(model: str, size: int) -> FrozenEncoder:
    """A timm model with random weights, which take as long as trained ones; nothing is fetched."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        random_weights(f"timm/{model}", weights)
        config = EncoderConfig(encoder=f"timm/{model}", weights=str(weights), image_size=(size, size))
        return load_encoder(config)


def untrained(encoder: FrozenEncoder, decoder: str) -> NEM:
    """The encoder under an untrained decoder; the authors' has the image as a skip."""
    torch.manual_seed(0)
    return NEM.untrained(encoder, masker=decoder, image_skip=decoder == "unet")


def fused(encoder: FrozenEncoder, decoder: str) -> Fused:
    """The encoder under an untrained decoder, float32."""
    return Fused(untrained(encoder, decoder), precision="fp32")


def fused_graph(encoder: FrozenEncoder, decoder: str) -> onnx.ModelProto:
    """The graph that a package of it would hold."""
    return graph_of(untrained(encoder, decoder))


def graph_of(nem: NEM, *, toward: bool = False) -> onnx.ModelProto:
    """The graph that a package of it would hold, float32; with a second input, toward a target."""
    side, fused = nem.encoder.input, Fused(nem, precision="fp32")
    whole = from_torch.export_onnx(fused, height=side.height, width=side.width, toward=toward)
    return from_torch.simplify(whole)[0]


def encoder_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of a fused graph that gives the embedding."""
    return onnx.utils.Extractor(model).extract_model([from_torch.INPUT], ["embedding"])


def session(model: onnx.ModelProto | Path, *, threads: int) -> Any:
    """An onnxruntime session on the CPU that does not spin: two that do slow each other down twofold."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: np.ndarray, targets: np.ndarray | None = None) -> Call:
    """A call of it on uint8 (N, H, W, 3) and, if it takes them, float32 (N, D)."""
    given = {from_torch.INPUT: images} | ({} if targets is None else {TOWARD: targets})
    return lambda: session.run(None, given)
