"""What fp16 can hold, and what a graph computes: the largest magnitude of every tensor, on real images.

A scaled dot product's Q·Kᵀ is the output of no module, so hooks do not see it; in the graph it is a node
like any other.  Measured is the graph that a device builds from, with its rounded weights, computed in
float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from export.run import Session
from export.widen import widened
from runtime.errors import ParityError

LARGEST_HALF = 65504.0
"""The largest finite float16."""
MARGIN = 4.0
"""A tensor that comes nearer to it than by this factor is named: other images may reach further."""
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Largest magnitudes in a graph."""

    peaks: dict[str, float]
    """Node → the largest |value| of what it computes in half precision, largest first."""
    images: int

    def beyond(self) -> dict[str, float]:
        """The nodes that leave half precision."""
        return {name: peak for name, peak in self.peaks.items() if not peak <= LARGEST_HALF}

    def near(self) -> dict[str, float]:
        """Those that come within MARGIN of its end."""
        return {n: p for n, p in self.peaks.items() if LARGEST_HALF / MARGIN < p <= LARGEST_HALF}

    def to_json(self) -> dict[str, Any]:
        """Plain values: the nodes beyond and near the end, or the three largest; infinity as text."""
        told = {**self.beyond(), **self.near()} or dict(list(self.peaks.items())[:3])
        peaks = {name: peak if np.isfinite(peak) else str(peak) for name, peak in told.items()}
        return {"largest": peaks, "limit": LARGEST_HALF, "tensors": len(self.peaks), "images": self.images}

    def check(self) -> None:
        """Refuse a graph that leaves half precision.

        Raises:
            ParityError: naming the nodes.
        """
        if beyond := self.beyond():
            raise ParityError(
                f"{named(beyond)} on {self.images} images; fp16 ends at {LARGEST_HALF:.0f}",
                expected=f"every tensor below {LARGEST_HALF:.0f}",
                cure="build with --precision auto or bf16; for GPUs older than 8.0 with --precision fp32",
            )


def measure_ranges(model: onnx.ModelProto, *sets: np.ndarray) -> Ranges:
    """Run a half graph, widened to float32, node by node as written.

    Args:
        model: float16 inside; tensors of other types are not judged.
        sets: images, uint8 (N, H, W, 3) each; one image is run at a time.
    """
    nodes = {name: node for node in model.graph.node for name in node.output}
    halves = [name for name in _halves(model) if name in nodes]
    images = [image for each in sets for image in each]
    if not halves:
        return Ranges(peaks={}, images=len(images))
    probe = widened(model)
    del probe.graph.output[:]
    for number, name in enumerate(halves):
        magnitude, peak = f"nemu_magnitude_{number}", f"nemu_peak_{number}"
        probe.graph.node.append(onnx.helper.make_node("Abs", [name], [magnitude]))
        probe.graph.node.append(onnx.helper.make_node("ReduceMax", [magnitude], [peak], keepdims=0))
        probe.graph.output.append(onnx.helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, []))
    session = Session(probe, as_written=True)
    worst = np.zeros(len(halves))
    for image in images:
        worst = np.maximum(worst, session([o.name for o in probe.graph.output], image[None]))
    found: dict[str, float] = {}
    for name, peak in sorted(zip(halves, worst.tolist(), strict=True), key=lambda pair: -pair[1]):
        found.setdefault(f"{nodes[name].name} ({nodes[name].op_type})", peak)
    return Ranges(peaks=found, images=len(images))


def _halves(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors in half precision, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    return [v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]


def named(peaks: dict[str, float]) -> str:
    """The largest of them, in words."""
    shown = [f"{name} reaches {peak:.3g}" for name, peak in list(peaks.items())[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(peaks) - _SHOWN} nodes more" if len(peaks) > _SHOWN else "")
