"""Other ways to get embedding and mask from the same architecture, each as a call on one uint8 image."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common.interleave import Call
from benchmarks.common.onnx_sessions import fused
from export.graph.fuse import Fused
from train.encoder.frozen import FrozenEncoder

if TYPE_CHECKING:
    import onnx


class AuthorsWay(nn.Module):
    """As their released code runs it: the encoder for the embedding, and again for the mask."""

    def __init__(self, module: Fused) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, 3) → embedding (N, D), mask (N, H, W)."""
        x = self.module.prepare(image)
        embedding, _ = self.module.nem.encoder(x)
        _, mask = self.module.nem(x)
        return embedding, mask


def torch_peers(encoder: FrozenEncoder, decoder: str) -> dict[str, Callable[[Tensor], Call]]:
    """Variant → what makes its call on uint8 (N, H, W, 3), in PyTorch with float32 weights.

    `authors_way`: their decoder, eager, the encoder run twice; `authors_one_pass`: the same without the
    second run; `eager`: `decoder`, one pass; `compiled`: that by torch.compile.
    """
    theirs, ours = fused(encoder, "unet"), fused(encoder, decoder)

    def compiled(image: Tensor) -> Call:
        call = _eager(torch.compile(copy.deepcopy(ours), dynamic=False), image)
        call()  # compiles
        return call

    return {
        "authors_way": lambda image: _eager(AuthorsWay(theirs), image),
        "authors_one_pass": lambda image: _eager(theirs, image),
        "eager": lambda image: _eager(ours, image),
        "compiled": compiled,
    }


def openvino_call(model: onnx.ModelProto, images: np.ndarray, *, threads: int) -> Call:
    """The graph in OpenVINO on the CPU, for latency, in float32.

    Raises:
        ImportError: openvino is not installed.
    """
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    network = core.read_model(model.SerializeToString())
    compiled = core.compile_model(network, "CPU", {**settings, "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    return lambda: request.infer({0: images})


def relax_milliseconds(encoder: FrozenEncoder, image: np.ndarray) -> float:
    """One RELAX explanation of uint8 (1, H, W, 3): one batch of masks timed, scaled to all."""
    from benchmarks.quality.baselines import RELAX_BATCHES, relax

    x = encoder.normalize(torch.from_numpy(image))
    began = time.perf_counter()
    relax(encoder, x, seed=0, batches=1)
    return 1e3 * (time.perf_counter() - began) * RELAX_BATCHES


def _eager(module: Callable[[Tensor], Any], image: Tensor) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return module(image)

    return call
