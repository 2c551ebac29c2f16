"""ONNX graphs in memory: run with onnxruntime on the CPU, copied, widened, and written to files."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

from runtime.package.manifest import OUTPUTS, TOWARD

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_LEAST = 1024
"""Tensors of fewer bytes stay in the graph's own file."""


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
                save(copied(model), path)
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

    def embed(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) → embedding float32 (D,)."""
        return self(OUTPUTS[:1], image[None])[0][0]

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


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`, and its weights as `path.data`; removes the weights from `model`.

    onnx's own `save_as_external_data` fails if the working directory holds a file of that name, wherever
    `path` is.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST:
            set_external_data(tensor, f"{path.name}.data")
    onnx.save_model(model, str(path))


def save_beside(model: onnx.ModelProto, path: Path, whole: Path) -> None:
    """Write `path`; it refers to weights that are already in `whole.data`, and holds the others.

    Args:
        whole: a graph that `save` wrote, in the same folder.
    """
    content = whole.with_name(f"{whole.name}.data").read_bytes()
    there = {}
    for tensor in onnx.load(str(whole), load_external_data=False).graph.initializer:
        at = {entry.key: entry.value for entry in tensor.external_data}
        if at:
            start, length = int(at.get("offset", 0)), int(at["length"])
            there[hashlib.sha256(content[start : start + length]).digest()] = (at["location"], start, length)
    for tensor in model.graph.initializer:
        if found := there.get(hashlib.sha256(tensor.raw_data).digest()):
            location, start, length = found
            set_external_data(tensor, location, offset=start, length=length)
            tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
