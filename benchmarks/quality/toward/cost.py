"""What a target costs: the encoder, graphs of one input and of two, side by side in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.common.interleave import interleave, latency_row
from benchmarks.common.onnx_sessions import encoder_graph, graph_of, run, session
from train.encoder.frozen import FrozenEncoder
from train.nem import NEM

THREADS, ROUNDS = 1, 200


def cost(encoder: FrozenEncoder, model: str) -> list[dict[str, Any]]:
    """Rows of one interleaved run; maskers are untrained, which takes as long.

    `control` is a second session of the encoder, `one input, no targets` that of a masker without them.
    """
    torch.manual_seed(0)
    plain, targets = (NEM.untrained(encoder, toward=toward) for toward in (False, True))
    side, rng = encoder.input, np.random.default_rng(0)
    image = rng.integers(0, 256, (1, side.height, side.width, 3), dtype=np.uint8)
    q = rng.standard_normal((1, encoder.record.dimension)).astype(np.float32)
    whole = graph_of(plain)
    alone = encoder_graph(whole)
    graphs: dict[str, tuple[onnx.ModelProto, np.ndarray | None]] = {
        "encoder": (alone, None),
        "control": (alone, None),
        "one input, no targets": (whole, None),
        "one input": (graph_of(targets), None),
        "two inputs": (graph_of(targets, toward=True), q),
    }
    calls = {name: run(session(of, threads=THREADS), image, target) for name, (of, target) in graphs.items()}
    times = interleave(calls, rounds=ROUNDS)
    base = times["encoder"]
    return [
        {"model": model, "variant": name, "threads": THREADS, **latency_row(column, base)}
        for name, column in times.items()
    ]
