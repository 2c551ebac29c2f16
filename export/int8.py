"""The int8 graphs of a package: calibrated, gated, and, for the CPU, timed.

onnxruntime's CPU kernels want unsigned activations and TensorRT refuses them, so there are two forms:
`model.int8.cpu.onnx` and `model.int8.trt.onnx`.  The first is gated as it runs.  The second is gated in
float: its quantised values times its quantised weights, summed exactly, as an engine does.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import graph
from export.calibrate import METHODS, observe, ranges
from export.precision import GRAPHS
from export.quantize import insert_qdq
from export.quantize_cpu import quantize_cpu
from export.run import run_model
from export.sensitivity import Form, badness, layers_to_keep
from export.speed import int8_against_fp32, verdict
from export.standalone import write_beside
from export.structure import Structure
from export.verify import gate
from export.widen import widened
from runtime.backends.onnxruntime import EMBEDDING_MODELS, MODELS
from runtime.verify import Reference

_CHECKED = 16
"""Calibration images that methods and layers are compared on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Images that the ranges are taken from."""

    images: np.ndarray
    """uint8 (N, H, W, 3)"""
    source: str
    """Where they come from, for the manifest."""


def cpu_form(full: onnx.ModelProto, images: np.ndarray, *, reduce_range: bool = True) -> Form:
    """What onnxruntime runs, from the float32 graph."""
    observed = observe(full, images)
    heads = Structure(full).heads()

    def build(method: str, keep: Collection[str]) -> onnx.ModelProto:
        return quantize_cpu(
            full, ranges(observed, method), keep_float=heads | set(keep), reduce_range=reduce_range
        )

    return Form("onnx int8 cpu", _layers(full, heads), build, run_model)


def trt_form(half: onnx.ModelProto, images: np.ndarray) -> Form:
    """What TensorRT compiles, from the half graph; the first layer stays half too."""
    observed = observe(widened(half), images)
    structure = Structure(half)
    floats = structure.heads() | structure.stems()

    def build(method: str, keep: Collection[str]) -> onnx.ModelProto:
        return insert_qdq(half, ranges(observed, method), keep_float=floats | set(keep))

    def run(model: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return run_model(widened(model), images, as_written=True)

    return Form("onnx int8 trt", _layers(half, floats), build, run)


def write_int8(
    folder: Path, half: onnx.ModelProto, reference: Reference, calibration: Calibration
) -> dict[str, dict[str, Any]]:
    """Write both graphs beside `model.onnx`; the gate's figures, and how they came about.

    Raises:
        ParityError: a form is beyond the gate even with half of its layers in float.
    """
    full = onnx.load(str(folder / MODELS["fp32"]))
    checked = calibration.images[:_CHECKED]
    check = Reference(checked, *run_model(full, checked))
    parity = {}
    for form, file in (
        (cpu_form(full, calibration.images), MODELS["int8"]),
        (trt_form(half, calibration.images), GRAPHS["int8"]),
    ):
        scores = {method: badness(form.measure(check, method)) for method in METHODS}
        method = min(scores, key=lambda name: scores[name])
        kept = layers_to_keep(form, method, check=check, gate=reference)
        model = form.build(method, kept)
        figures = gate(reference, form.name, *form.run(model, reference.images), precision="int8")
        graph.save(model, folder / file)
        parity[form.name] = {
            **figures.to_json(),
            "calibration": {
                "images": calibration.source,
                "n": len(calibration.images),
                "method": method,
                "share_of_the_gate_by_method": scores,
            },
            "layers": len(form.layers),
            "layers_back_to_float": kept,
        }
    write_beside(folder / MODELS["int8"], EMBEDDING_MODELS["int8"], reference, precision="int8")
    speed = int8_against_fp32(folder, reference.images[0])
    parity["onnx int8 cpu"]["speed"] = speed
    print(verdict(speed), file=sys.stderr)
    return parity


def _layers(model: onnx.ModelProto, floats: Collection[str]) -> list[str]:
    return [n.name for n in Structure(model).weighted() if n.name not in floats]
