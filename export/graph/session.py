"""Run an ONNX graph with onnxruntime on the CPU: every session of this folder is made here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.graph import external
from runtime.package.manifest import OUTPUTS, TOWARD

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Session:
    """An onnxruntime session on the CPU.

    Args:
        model: a graph in memory, or the file of one.
        as_written: compute every node as it stands, without onnxruntime's optimisations.
            Quantise–dequantise pairs are then computed in float with exact sums, as an engine computes them,
            and not by this CPU's int8 kernels.
    """

    def __init__(self, model: onnx.ModelProto | Path, *, as_written: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # for sessions run in turn
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            # Runs an added output right after its node.  At the end, all their inputs would be in memory.
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
            path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
            if not isinstance(model, Path):  # a file, because bytes are limited to 2 GB
                external.save(copied(model), path)
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def __call__(
        self, names: Sequence[str] | None, images: np.ndarray, toward: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Run the graph once.

        Args:
            names: outputs to return; None returns all.
            images: uint8 (N, H, W, 3).
            toward: float32 (N, D), a target for each image, if the graph takes targets.
        """
        targets = {} if toward is None else {TOWARD: toward}
        return self._session.run(names, {"image": images, **targets})

    def embed(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) → embedding float32 (N, D), one image at a time."""
        return np.concatenate([self(OUTPUTS[:1], image[None])[0] for image in images])

    def explain(self, images: np.ndarray, toward: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) → embedding float32 (N, D), mask float32 (N, H, W), one image at a time.

        Args:
            toward: float32 (N, D), a target for each image, if the graph takes targets.
        """
        targets = [None] * len(images) if toward is None else [row[None] for row in toward]
        pairs = zip(images, targets, strict=True)
        parts = [self(OUTPUTS, image[None], target) for image, target in pairs]
        embedding, mask = (np.concatenate(p) for p in zip(*parts, strict=True))
        return embedding, mask


def run_model(
    model: onnx.ModelProto | Path,
    images: np.ndarray,
    toward: np.ndarray | None = None,
    *,
    as_written: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """`Session.explain` in a session of its own."""
    return Session(model, as_written=as_written).explain(images, toward)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy that also returns these float32 tensors."""
    copy = copied(model)
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return copy


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which float16 and bfloat16 are float32; the weights keep their rounded values.

    onnxruntime computes half graphs in float32 on a CPU anyway, and has no bfloat16 kernels there.  The copy
    shows whether a graph was exported correctly; what half precision loses is measured with torch.
    """
    twin = copied(model)
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        _widen(tensor)
    for node in twin.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "output_dtype", "dtype") and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
    return twin


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALVES:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
