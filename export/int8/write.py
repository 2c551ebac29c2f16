"""Write the int8 graphs of a package: calibrate them, run the gate, and time the one for the CPU.

onnxruntime's CPU kernels need unsigned activations and TensorRT refuses them, so there are two forms:
`model.int8.cpu.onnx` and `model.int8.trt.onnx`.  The gate runs the first as it is.  It computes the second in
float: quantised values times quantised weights, summed exactly, as an engine does.  If the gate fails, the
int8 layers that lose most go back to float.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph.from_torch import save
from export.graph.session import Session, copied, widened
from export.graph.structure import Structure
from export.graph.variants import write_beside
from export.int8.calibrate import ranges
from export.int8.for_onnxruntime import quantize_cpu
from export.int8.for_tensorrt import insert_qdq
from export.int8.rounding import Rounding
from export.int8.speed import int8_against_fp32, verdict
from runtime.backends.onnxruntime import EMBEDDING_MODELS, MODELS
from runtime.package.folder import GRAPHS
from runtime.package.parity import LIMITS, Parity
from runtime.package.reasons import Reason
from runtime.package.reference import Reference, limits_for

CPU, TRT = "onnx int8 cpu", "onnx int8 trt"
MOST = 0.5
"""Largest share of the layers that may go back to float; if more must, int8 is refused."""
_LIMITS = LIMITS["int8"]
_RANKED = 16
"""Number of calibration images that layers are ranked on."""
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_OURS = "int8/"
"""Prefix of the names of nodes that are copied into the float graph."""

Step = Callable[[str], AbstractContextManager[object]]
"""Wraps each long step, to show progress."""


class Form(NamedTuple):
    """One of the int8 graphs, and how it is built, run and measured."""

    name: str
    layers: list[str]
    """Names of the weighted nodes it quantises at first."""
    build: Callable[[Collection[str]], onnx.ModelProto]
    """Names of layers to leave in float besides the heads → the graph."""
    losses: Callable[[onnx.ModelProto], dict[str, float]]
    """The error of each int8 layer of the graph by itself."""
    run: Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """The graph's outputs for images."""


class Fit(NamedTuple):
    """A graph with the layers in float that the gate needs."""

    model: onnx.ModelProto
    kept: list[str]
    parity: Parity


def write_int8(
    folder: Path,
    half: onnx.ModelProto | None,
    reference: Reference,
    images: np.ndarray,
    source: str,
    *,
    step: Step,
) -> tuple[dict[str, dict[str, Any]], dict[str, Reason]]:
    """Write both graphs beside `model.onnx`.

    Args:
        half: the graph that the form for TensorRT is made from; None makes no such form.
        images: uint8 (N, H, W, 3), which the ranges are taken from.
        source: where they come from, for the manifest: `folder:NAME`, or `reference`.

    Returns:
        The gate's figures of each graph that was written, with its calibration and float layers; and each
        form that is not written, as it is beyond the gate even with half of its layers in float → why.
    """
    full = onnx.load(str(folder / MODELS["fp32"]))
    refused, parity = dict[str, Reason](), dict[str, dict[str, Any]]()
    for make, model, file in ((cpu_form, full, MODELS["int8"]), (trt_form, half, GRAPHS["int8"])):
        if model is None:
            continue
        with step(f"{file}: ranges and moments on {len(images)} images"):
            form = make(model, images)
        model, _, figures = fit(form, reference, step=step)
        kept = in_float(form, model)
        if figures.failures(limits_for("int8")):
            layers = {"float_layers": len(kept), "layers": len(form.layers)}
            refused[form.name] = {"code": "gate", "precision": "int8", "parity": figures.to_json(), **layers}
            continue
        save(model, folder / file)
        parity[form.name] = {
            **figures.to_json(),
            "calibration": {"images": source, "n": len(images)},
            "layers": len(form.layers),
            "layers_back_to_float": kept,
        }
    if CPU in parity:
        write_beside(folder / MODELS["int8"], EMBEDDING_MODELS["int8"], reference, precision="int8")
        with step("int8 against fp32 on this CPU"):
            parity[CPU]["speed"] = int8_against_fp32(folder, reference.images[0])
        print(verdict(parity[CPU]["speed"]), file=sys.stderr)
    return parity, refused


def cpu_form(full: onnx.ModelProto, images: np.ndarray, *, reduce_range: bool = True) -> Form:
    """The form for onnxruntime, made from the float32 graph."""
    bounds, rounding = ranges(full, images), Rounding(full, images)
    heads = Structure(full).heads()

    def build(keep: Collection[str]) -> onnx.ModelProto:
        model = quantize_cpu(full, bounds, heads=heads, keep_float=keep, reduce_range=reduce_range)
        rounding.apply(model)
        return model

    def lost(model: onnx.ModelProto) -> dict[str, float]:
        return losses(full, model, images[:_RANKED])

    def run(model: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return Session(model).explain(images)

    return Form(CPU, _layers(full, heads), build, lost, run)


def trt_form(half: onnx.ModelProto, images: np.ndarray) -> Form:
    """The form for TensorRT, made from the half graph; the first layer stays half too."""
    full = widened(half)
    bounds, rounding = ranges(full, images), Rounding(full, images)
    structure = Structure(half)
    floats = structure.heads() | structure.stems()

    def build(keep: Collection[str]) -> onnx.ModelProto:
        model = insert_qdq(half, bounds, keep_float=floats | set(keep))
        rounding.apply(model)
        return model

    def lost(model: onnx.ModelProto) -> dict[str, float]:
        return losses(full, widened(model), images[:_RANKED])

    def run(model: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return Session(widened(model), as_written=True).explain(images)

    return Form(TRT, _layers(half, floats), build, lost, run)


def in_float(form: Form, model: onnx.ModelProto) -> list[str]:
    """The layers of a form that a graph computes in float: those asked for, and those that feed them."""
    floats = {n.name for n in Structure(model).weighted()}
    return [name for name in form.layers if name in floats]


def _layers(model: onnx.ModelProto, floats: Collection[str]) -> list[str]:
    return [n.name for n in Structure(model).weighted() if n.name not in floats]


def badness(parity: Parity) -> float:
    """The largest error relative to its limit; above 1 the gate fails."""
    return max(
        parity.embedding_error / _LIMITS.embedding,
        (1 - parity.mask_iou) / (1 - (_LIMITS.mask_iou or 0.0)),
    )


def fit(form: Form, reference: Reference, *, step: Step) -> Fit:
    """The graph with few layers in float that passes the gate; the best that was found if none does.

    Layers are ranked by their own errors, which one pass over the images measures.  The number of layers in
    float is found by doubling, then by halving the last step down to an eighth of that number.
    """
    best = _fit(form, reference, [], step)
    if badness(best.parity) <= 1:
        return best
    with step(f"{form.name}: which layers lose most"):
        lost = form.losses(best.model)
    ranked = sorted(lost, key=lambda layer: -lost[layer])
    count, fails, most = 0, 0, max(1, int(MOST * len(form.layers)))
    while badness(best.parity) > 1 and count < most:
        fails, count = count, min(max(1, 2 * count), most)
        best = min(best, _fit(form, reference, ranked[:count], step), key=lambda found: badness(found.parity))
    while badness(best.parity) <= 1 and count - fails > max(1, count // 8):
        middle = (fails + count) // 2
        found = _fit(form, reference, ranked[:middle], step)
        if badness(found.parity) <= 1:
            best, count = found, middle
        else:
            fails = middle
    return best


def _fit(form: Form, reference: Reference, kept: list[str], step: Step) -> Fit:
    with step(f"{form.name}: parity with {len(kept)} of {len(form.layers)} layers in float"):
        model = form.build(kept)
        outputs = form.run(model, reference.images)
        return Fit(model, kept, reference.compare(*outputs, precision="int8"))


def losses(model: onnx.ModelProto, quantised: onnx.ModelProto, images: np.ndarray) -> dict[str, float]:
    """For each int8 layer, given float activations: mean square of its error / variance of its output.

    Args:
        model: the float32 graph.
        quantised: made from `model`, float32 except for int8; its nodes keep their names.
        images: uint8 (N, H, W, 3).
    """
    both, outputs = _beside(model, quantised)
    session = Session(both, as_written=True)
    square, spread = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    for image in images:
        exact = session(list(outputs.values()), image[None])
        found = session([_OURS + name for name in outputs.values()], image[None])
        for layer, a, b in zip(outputs, exact, found, strict=True):
            square[layer] += float(np.square(a - b).mean())
            spread[layer] += float(a.var())
    return {layer: square[layer] / max(spread[layer], 1e-12) for layer in outputs}


def _beside(model: onnx.ModelProto, quantised: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The float graph with a copy of each int8 layer; and layer → output of the original layer."""
    both = copied(model)
    first = {n.name: n.output[0] for n in model.graph.node}
    pairs = {name for n in quantised.graph.node if n.op_type in _PAIR for name in n.output}
    constants = {t.name for t in quantised.graph.initializer}
    weights = {n.output[0] for n in quantised.graph.node if n.op_type in _PAIR and n.input[0] in constants}
    ours = pairs | constants
    outputs = {}
    for node in quantised.graph.node:
        layer = len(node.input) > 1 and node.input[1] in weights and node.name in first
        if node.op_type not in _PAIR and not layer:
            continue
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = _OURS + node.name
        copy.input[:] = [_OURS + name if name in ours else name for name in node.input]
        copy.output[0] = _OURS + (node.output[0] if node.op_type in _PAIR else first[node.name])
        if node.op_type not in _PAIR:
            outputs[node.name] = first[node.name]
    for tensor in quantised.graph.initializer:
        constant = both.graph.initializer.add()
        constant.CopyFrom(tensor)
        constant.name = _OURS + tensor.name
    names = [name for output in outputs.values() for name in (output, _OURS + output)]
    both.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return both, outputs
