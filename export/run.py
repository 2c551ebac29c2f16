"""A graph in memory, run by onnxruntime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from export import external
from runtime.manifest import TOWARD


class Session:
    """An onnxruntime session on a model that is in memory.

    Args:
        as_written: compute every node as it stands.  Quantise–dequantise pairs are then computed in float,
            with exact sums: what an engine gives, without the arithmetic of this CPU's int8 kernels.
    """

    def __init__(self, model: onnx.ModelProto, *, as_written: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            # A probe beside each node runs next to it, not at the end, when all their inputs would be alive.
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
            path = Path(folder) / "model.onnx"  # beyond 2 GB a model cannot be passed as bytes
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            external.save(copy, path)
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def __call__(
        self, names: Sequence[str], images: np.ndarray, toward: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The named outputs for uint8 (N, H, W, 3), and float32 (N, D) where the graph takes targets."""
        targets = {} if toward is None else {TOWARD: toward}
        return self._session.run(list(names), {"image": images, **targets})


def run_model(
    model: onnx.ModelProto,
    images: np.ndarray,
    toward: np.ndarray | None = None,
    *,
    as_written: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) → embedding float32 (N, D), mask float32 (N, H, W), one image at a time.

    Args:
        toward: float32 (N, D), where the graph takes targets.
    """
    return run_session(Session(model, as_written=as_written), images, toward)


def run_session(
    session: Session, images: np.ndarray, toward: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same by a session that is there already."""
    targets = [None] * len(images) if toward is None else [row[None] for row in toward]
    parts = [
        session(["embedding", "mask"], image[None], target)
        for image, target in zip(images, targets, strict=True)
    ]
    embedding, mask = (np.concatenate(p) for p in zip(*parts, strict=True))
    return embedding, mask
