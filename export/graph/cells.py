"""`model.cells.onnx`: the embedding and a grid of local features, for a bank of normal images.

The features are those of the encoder's pyramid that the masker reads.  Each is averaged with its eight
neighbours, as PatchCore does (Roth et al., CVPR 2022), and a finer map is averaged down to the grid of the
coarsest.  No weight is added: the graph uses those in `model.onnx.data`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional as F

from export.graph.fuse import Fused
from export.graph.gate import gate, refusal
from export.graph.session import Session, copied
from export.graph.variants import drop_mask
from runtime.backends.onnxruntime import CELLS
from runtime.errors import ExportError, ParityError
from runtime.package.manifest import OUTPUTS
from runtime.package.reference import Reference
from train.encoder.frozen import FrozenEncoder
from train.nem import NEM

FINEST, COARSEST = 4, 16
"""Strides, in pixels, of the feature maps that are taken.  Stride 4 finds more scratches than 8 and 16
alone, at almost no cost (python -m benchmarks.defects, two encoders)."""
TOLERANCE = 1e-3
"""Largest error of a feature relative to the largest of its map."""


def write_cells(graph: Path, file: str, nem: NEM, reference: Reference) -> None:
    """Write the graph with outputs `embedding` (N, D) and `cells` float32 (N, C, h, w) beside the whole one.

    Args:
        graph: `model.onnx` of a package that is being made.
        file: its name.
        nem: what the graph was exported from.

    Raises:
        ExportError: a feature map of the encoder is not in the graph.
        ParityError: it does not give the reference embeddings, or other features.
    """
    path = graph.with_name(file)
    fused = Fused(nem, precision="fp32")
    with torch.no_grad():
        image = fused.prepare(torch.from_numpy(reference.images[:1]))
        pyramid = [level.contiguous() for level in fused.nem.encoder(image)[1]]
    levels = [pyramid[i] for i in chosen(nem.encoder)]
    names = _found(onnx.load(str(graph)), levels, reference.images[:1])
    model = _with_cells(onnx.load(str(graph), load_external_data=False), names, levels)
    path.write_bytes(model.SerializeToString())
    _check(path, pooled(levels).numpy(), reference)


def chosen(encoder: FrozenEncoder) -> list[int]:
    """Indices of the pyramid's maps: the three deepest of strides FINEST to COARSEST; else the finest one."""
    strides = [encoder.input.height / height for height, _ in encoder.sizes]
    fitting = [i for i, stride in enumerate(strides) if FINEST <= stride <= COARSEST]
    return fitting[-3:] or [next((i for i, stride in enumerate(strides) if stride >= FINEST), -1)]


def pooled(levels: Sequence[Tensor]) -> Tensor:
    """Feature maps (N, C_i, h_i, w_i), fine to coarse → cells (N, ΣC_i, h, w) on the last one's grid."""
    size = levels[-1].shape[2:]
    means = [F.avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in levels]
    return torch.cat([_on_grid(mean, size) for mean in means], dim=1)


def _on_grid(level: Tensor, size: torch.Size) -> Tensor:
    """Average if the grid divides the map evenly, otherwise resample."""
    if level.shape[2:] == size:
        return level
    if step := _step(level, size):
        return F.avg_pool2d(level, step)
    return F.interpolate(level, size=size, mode="bilinear")


def _step(level: Tensor, size: torch.Size) -> list[int] | None:
    (height, width), (rows, columns) = level.shape[2:], size
    return [height // rows, width // columns] if height % rows == width % columns == 0 else None


def _found(model: onnx.ModelProto, levels: list[Tensor], image: np.ndarray) -> list[str]:
    """Names of the tensors that hold these maps, found by their values because exporters rename tensors.

    `model` is changed: the candidates become its outputs.
    """
    shapes = {tuple(level.shape[1:]) for level in levels}
    without_weights = copied(model)
    for tensor in without_weights.graph.initializer:
        if len(tensor.raw_data) >= 1024:  # not a shape or a scale
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(without_weights)
    values = [v for v in inferred.graph.value_info if _shape(v) in shapes]
    names = [v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    if not names:
        return [_nearest(level.numpy(), {}) for level in levels]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    given = dict(zip(names, Session(model)(names, image), strict=True))
    return [_nearest(level.numpy(), given) for level in levels]


def _nearest(level: np.ndarray, given: dict[str, np.ndarray]) -> str:
    errors = {name: _error(value, level) for name, value in given.items() if value.shape == level.shape}
    best = min(errors, key=lambda name: errors[name], default="")
    if not errors or errors[best] > TOLERANCE:
        raise refusal(
            ExportError,
            "no_map",
            shape=list(level.shape[1:]),
            expected="the pyramid that the masker reads, as outputs of nodes",
            cure="build with --no-simplify if you need a bank of normal images",
        )
    return best


def _with_cells(whole: onnx.ModelProto, names: list[str], levels: list[Tensor]) -> onnx.ModelProto:
    """A copy with `cells`, and without what only the mask needs."""
    model = copied(whole)
    size = levels[-1].shape[2:]
    ends = []
    for i, (name, level) in enumerate(zip(names, levels, strict=True)):
        model.graph.node.extend(_nodes(name, f"{CELLS}_{i}", level, size))
        ends.append(f"{CELLS}_{i}")
    model.graph.node.append(helper.make_node("Concat", ends, [CELLS], axis=1, name=CELLS))
    if any(not _step(level, size) for level in levels):
        sizes = helper.make_tensor(f"{CELLS}_size", TensorProto.INT64, [2], list(size))
        model.graph.initializer.append(sizes)
    shape = ["N", sum(level.shape[1] for level in levels), *size]
    model.graph.output.append(helper.make_tensor_value_info(CELLS, TensorProto.FLOAT, shape))
    return drop_mask(model)


def _nodes(name: str, end: str, level: Tensor, size: torch.Size) -> Iterator[onnx.NodeProto]:
    """The nodes that do to one map what `pooled` does."""
    mean = end if level.shape[2:] == size else f"{end}_mean"
    yield helper.make_node(
        "AveragePool", [name], [mean], name=mean, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0
    )
    if level.shape[2:] == size:
        return
    if step := _step(level, size):
        yield helper.make_node(
            "AveragePool", [mean], [end], name=end, kernel_shape=step, strides=step, count_include_pad=0
        )
    else:
        inputs = [mean, "", "", f"{CELLS}_size"]  # half-pixel centres are its default
        yield helper.make_node("Resize", inputs, [end], name=end, mode="linear", axes=[2, 3])


def _check(path: Path, cells: np.ndarray, reference: Reference) -> None:
    """Check both outputs of the graph on disk."""
    onnx.checker.check_model(str(path))
    session = Session(path)
    pairs = [session([OUTPUTS[0], CELLS], image[None]) for image in reference.images]
    gate(reference, path.name, np.concatenate([e for e, _ in pairs]), reference.mask, precision="fp32")
    if (error := _error(pairs[0][1], cells)) > TOLERANCE:
        raise refusal(
            ParityError,
            "cells",
            error=error,
            expected=f"at most {TOLERANCE}",
            cure="try another version of onnxruntime, or build with --no-simplify",
        )


def _error(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-12))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim[1:])
