"""Write the int8 graphs of a package: calibrate them, run the gate, and time the one for the CPU.

onnxruntime's CPU kernels need unsigned activations and TensorRT refuses them, so there are two forms:
`model.int8.cpu.onnx` and `model.int8.trt.onnx`.  The gate runs the first as it is.  It computes the second in
float: quantised values times quantised weights, summed exactly, as an engine does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.graph import from_torch
from export.graph.session import run_model, widened
from export.graph.structure import Structure
from export.graph.variants import write_beside
from export.int8.calibrate import ranges
from export.int8.for_onnxruntime import quantize_cpu
from export.int8.for_tensorrt import insert_qdq
from export.int8.losses import losses
from export.int8.rounding import Rounding
from export.int8.sensitivity import Form, Step, fit
from export.int8.speed import int8_against_fp32, verdict
from runtime.backends.onnxruntime import EMBEDDING_MODELS, MODELS
from runtime.package.folder import GRAPHS
from runtime.package.reasons import Reason
from runtime.package.reference import Reference, limits_for

CPU, TRT = "onnx int8 cpu", "onnx int8 trt"
_RANKED = 16
"""Number of calibration images that layers are ranked on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Images that the ranges are taken from."""

    images: np.ndarray
    """uint8 (N, H, W, 3)"""
    source: str
    """Where they come from, for the manifest: `folder:NAME`, or `reference` for the reference images."""


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

    return Form(CPU, _layers(full, heads), build, lost, run_model)


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
        return run_model(widened(model), images, as_written=True)

    return Form(TRT, _layers(half, floats), build, lost, run)


def write_int8(
    folder: Path, half: onnx.ModelProto | None, reference: Reference, calibration: Calibration, *, step: Step
) -> tuple[dict[str, dict[str, Any]], dict[str, Reason]]:
    """Write both graphs beside `model.onnx`.

    Args:
        half: the graph that the form for TensorRT is made from; None makes no such form.

    Returns:
        The gate's figures of each graph that was written, with its calibration and float layers; and each
        form that is not written, as it is beyond the gate even with half of its layers in float → why.
    """
    full = onnx.load(str(folder / MODELS["fp32"]))
    images, refused = calibration.images, dict[str, Reason]()
    parity: dict[str, dict[str, Any]] = {}
    makers: tuple[Callable[[onnx.ModelProto, np.ndarray], Form], ...] = (cpu_form, trt_form)
    sources, files = (full, half), (MODELS["int8"], GRAPHS["int8"])
    for make, source, file in zip(makers, sources, files, strict=True):
        if source is None:
            continue
        with step(f"{file}: ranges and moments on {len(images)} images"):
            form = make(source, images)
        model, _, figures = fit(form, reference, step=step)
        kept = in_float(form, model)
        if figures.failures(limits_for("int8")):
            layers = {"float_layers": len(kept), "layers": len(form.layers)}
            refused[form.name] = {"code": "gate", "precision": "int8", "parity": figures.to_json(), **layers}
            continue
        from_torch.save(model, folder / file)
        parity[form.name] = {
            **figures.to_json(),
            "calibration": {"images": calibration.source, "n": len(images)},
            "layers": len(form.layers),
            "layers_back_to_float": kept,
        }
    if CPU in parity:
        write_beside(folder / MODELS["int8"], EMBEDDING_MODELS["int8"], reference, precision="int8")
        with step("int8 against fp32 on this CPU"):
            parity[CPU]["speed"] = int8_against_fp32(folder, reference.images[0])
        print(verdict(parity[CPU]["speed"]), file=sys.stderr)
    return parity, refused


def in_float(form: Form, model: onnx.ModelProto) -> list[str]:
    """The layers of a form that a graph computes in float: those asked for, and those that feed them."""
    floats = {n.name for n in Structure(model).weighted()}
    return [name for name in form.layers if name in floats]


def _layers(model: onnx.ModelProto, floats: Collection[str]) -> list[str]:
    return [n.name for n in Structure(model).weighted() if n.name not in floats]
