"""Can fp16 hold what a graph computes?  The largest magnitude of every tensor, on real images.

Q·Kᵀ of an attention is the output of no module, so hooks do not see it; in the graph it is a node.  The graph
that a device builds from is measured, with its rounded weights, computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from export.graph.gate import refusal
from export.graph.session import Session, widened
from runtime.errors import ExportError, ParityError
from runtime.package.reasons import LARGEST_HALF

MARGIN = 4.0
"""A tensor closer to it than this factor is named, and `auto` refuses it: other images may reach further."""
_SHOWN = 8
"""At most this many nodes of one refusal are named."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes in a graph."""

    peaks: dict[str, float]
    """Node → the largest |value| of what it computes in half precision, largest first."""
    images: int

    def beyond(self) -> dict[str, float]:
        """The nodes whose values half precision cannot hold."""
        return {name: peak for name, peak in self.peaks.items() if not peak <= LARGEST_HALF}

    def near(self) -> dict[str, float]:
        """The nodes within MARGIN of the largest float16."""
        return {n: p for n, p in self.peaks.items() if LARGEST_HALF / MARGIN < p <= LARGEST_HALF}

    def to_json(self) -> dict[str, Any]:
        """Plain values: the nodes beyond and near the limit, or the three largest; infinity as text."""
        told = {**self.beyond(), **self.near()} or dict(list(self.peaks.items())[:3])
        return {
            "largest": _plain(told),
            "limit": LARGEST_HALF,
            "tensors": len(self.peaks),
            "images": self.images,
        }

    def check(self, *, careful: bool = True) -> None:
        """Refuse a graph whose values half precision cannot hold.

        Args:
            careful: also refuse one within MARGIN of the limit.

        Raises:
            ParityError: naming the nodes.
        """
        refused = {**self.beyond(), **(self.near() if careful else {})}
        if refused:
            shown = dict(list(refused.items())[:_SHOWN])
            raise refusal(
                ParityError,
                "range",
                peaks=_plain(shown),
                more=len(refused) - len(shown),
                images=self.images,
                margin=1.0 if self.beyond() else MARGIN,
                expected=f"every tensor below {LARGEST_HALF:.0f}",
                cure="build with --precision auto or bf16; for GPUs older than 8.0 with --precision fp32",
            )


def measure_ranges(model: onnx.ModelProto, *sets: np.ndarray, toward: np.ndarray | None = None) -> Ranges:
    """Run a half graph, widened to float32, node by node as written.

    Args:
        model: float16 inside; tensors of other types are not judged.
        sets: images, uint8 (N, H, W, 3) each; one image is run at a time.
        toward: float32 (N, D), a target for each image, where the graph takes them.

    Raises:
        ExportError: a tensor whose type is not known.
        ParityError: a weight that is not finite in half precision.
    """
    halves = _halves(model)
    _check_weights(model)
    probe = widened(model)
    computed = list(probe.graph.node)
    del probe.graph.node[:], probe.graph.output[:]
    names = []
    for node in computed:
        probe.graph.node.append(node)
        for tensor in halves.intersection(node.output):
            names.append(f"{node.name} ({node.op_type})")
            magnitude, peak = f"nemu_magnitude_{len(names)}", f"nemu_peak_{len(names)}"
            probe.graph.node.append(onnx.helper.make_node("Abs", [tensor], [magnitude]))
            probe.graph.node.append(onnx.helper.make_node("ReduceMax", [magnitude], [peak], keepdims=0))
            probe.graph.output.append(onnx.helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, []))
    images = [image for each in sets for image in each]
    if not names:
        return Ranges(peaks={}, images=len(images))
    session = Session(probe, as_written=True)
    worst = np.zeros(len(names))
    peaks = [o.name for o in probe.graph.output]
    for i, image in enumerate(images):
        target = None if toward is None else toward[i : i + 1]
        worst = np.maximum(worst, session(peaks, image[None], target))
    found: dict[str, float] = {}
    for name, peak in sorted(zip(names, worst.tolist(), strict=True), key=lambda pair: -pair[1]):
        found.setdefault(name, peak)
    return Ranges(peaks=found, images=len(images))


def _check_weights(model: onnx.ModelProto) -> None:
    """Refuse infinite weights: their product with zero is NaN, which a maximum ignores."""
    for tensor in model.graph.initializer:
        if (
            tensor.data_type == onnx.TensorProto.FLOAT16
            and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
        ):
            raise refusal(
                ParityError,
                "weight",
                tensor=tensor.name,
                expected=f"weights below {LARGEST_HALF:.0f}",
                cure="build with --precision auto or bf16",
            )


def _halves(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors in half precision, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    unknown = [name for node in model.graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise refusal(
            ExportError,
            "type",
            n=len(unknown),
            first=unknown[0],
            expected="operators that ONNX's shape inference knows, so that every half tensor can be measured",
            cure="build with --precision fp32, or write that part of the encoder in standard operators",
        )
    return {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16}


def _plain(peaks: dict[str, float]) -> dict[str, float | str]:
    """JSON knows no infinity: it becomes text."""
    return {name: peak if np.isfinite(peak) else str(peak) for name, peak in peaks.items()}
