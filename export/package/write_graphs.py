"""Write every ONNX graph of a package; each passes the parity gate, or the package is made without it.

This part needs torch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from export.graph import from_torch as graph
from export.graph.cells import write_cells
from export.graph.fuse import Fused, run_torch
from export.graph.gate import gate, reason_of, refused_key, run_onnx
from export.graph.ranges import measure_ranges
from export.graph.session import save_beside
from export.graph.variants import write_beside
from export.int8.write import TRT, Step, write_int8
from export.package.source import Images
from runtime.backends.onnxruntime import CELLS_MODEL, EMBEDDING_MODELS, MODELS
from runtime.errors import ExportError, ParityError
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS
from runtime.package.reasons import Reason, largest, sentence
from runtime.package.reference import Reference
from train.nem import NEM

_REFUSED = (ParityError, ExportError)


@dataclass(frozen=True)
class Job:
    """What every graph of one package is made from and compared with, and what became of them."""

    folder: Path
    nem: NEM
    reference: Reference
    images: Images
    simplify: bool
    step: Step
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of the comparison → the gate's figures, of every graph that was written."""
    refused: dict[str, Reason] = field(default_factory=dict)
    """Key of `Manifest.refused` → why that graph was not written."""


def write_graphs(job: Job, precision: str) -> None:
    """Write the fp32 graph, its parts, and the graphs of other precisions.

    Args:
        precision: one of `runtime.package.folder.GRAPHS`, whose graphs are written too.  `auto` writes fp16,
            else bf16, else neither; int8 that is refused goes on as `auto`.

    Raises:
        ParityError: a graph is beyond the gate: that of fp32, or of the precision that was asked for.
        ExportError: see `export.graph.from_torch`.
    """
    job.parity.update(_write_float(job, "fp32", *_export(job, "fp32")))
    full = job.folder / MODELS["fp32"]
    write_beside(full, EMBEDDING_MODELS["fp32"], job.reference, precision="fp32")
    if precision == "int8":
        _write_int8(job)
    if precision != "fp32" and not (job.folder / GRAPHS["int8"]).exists():
        _write_half(job, precision)
    _write_cells(job)
    _write_toward(job)


def _export(job: Job, precision: str, *, toward: bool = False) -> tuple[onnx.ModelProto, str]:
    """Export, simplify and lint a graph; returns it, and the code of what the simplifier did."""
    file = TOWARD_GRAPHS[precision] if toward else GRAPHS[precision]
    size, opset = job.nem.encoder.input, graph.OPSETS[precision]
    with job.step(f"{precision}: exporting {file}"):
        fused = Fused(job.nem, precision=precision)
        model = graph.export_onnx(fused, height=size.height, width=size.width, opset=opset, toward=toward)
        model, simplified = graph.simplify(model) if job.simplify else (model, "no-simplify")
        graph.lint(model, opset=opset, toward=toward)
    return model, simplified


def _write_float(
    job: Job, precision: str, model: onnx.ModelProto, simplified: str
) -> dict[str, dict[str, Any]]:
    """Write the graph of a float precision; returns its parity through onnxruntime."""
    file = job.folder / GRAPHS[precision]
    graph.save(model, file)
    with job.step(f"{precision}: parity through onnxruntime"):
        figures = gate(job.reference, file.name, *run_onnx(file, job.reference.images), precision=precision)
    return {f"onnx {precision}": {**figures.to_json(), "graph": simplified}}


def _write_half(job: Job, precision: str) -> None:
    """Write the graph of a half precision: the one asked for, or the first that `auto` may take."""
    steps_on, int8 = precision in ("auto", "int8"), job.refused.get("int8", {})
    for half in ("fp16", "bf16") if steps_on else (precision,):
        if half == int8.get("in"):
            job.refused[half] = {key: value for key, value in int8.items() if key != "in"}
            continue
        before = set(job.folder.iterdir())
        try:
            model, simplified = _export(job, half)
            checked = _check_half(job, half, model, careful=steps_on)
            job.parity.update(checked | _write_float(job, half, model, simplified))
            return
        except _REFUSED as error:
            if not steps_on:
                raise
            for file in set(job.folder.iterdir()) - before:
                file.unlink()
            job.refused[half] = _left_out(half, reason_of(error))


def _check_half(job: Job, half: str, model: onnx.ModelProto, *, careful: bool) -> dict[str, dict[str, Any]]:
    """Check that half precision can hold what the graph computes, and the parity of torch in half precision.

    A CPU computes half graphs in float32, so onnxruntime shows neither.
    """
    found: dict[str, Any] = {}
    if half == "fp16":
        with job.step("fp16: range of every tensor"):
            sets = (job.reference.images, job.images.calibration)
            ranges = measure_ranges(model, *(images for images in sets if images is not None))
            ranges.check(careful=careful)
        found["ranges"] = ranges.to_json()
        if near := ranges.near():
            print(f"warning: near the end of fp16 (65504): {largest(near)}", file=sys.stderr)
    with job.step(f"{half}: torch in half precision"):
        outputs = run_torch(Fused(job.nem, precision=half), job.reference.images)
        figures = gate(job.reference, f"torch {half}", *outputs, precision=half)
    return {f"torch {half}": {**figures.to_json(), **found}}


def _write_int8(job: Job) -> None:
    """Write both int8 graphs.

    Layers of the one for TensorRT that are not int8 compute in fp16, which must hold what they compute.
    """
    model, _ = _export(job, "int8")
    half: onnx.ModelProto | None = model
    try:
        job.parity.update(_check_half(job, "fp16", model, careful=True))
    except ParityError as error:
        half = None
        job.refused["int8"] = _left_out("int8 for TensorRT", {**reason_of(error), "in": "fp16"})
    images = job.images.calibration
    if images is None:
        images = job.reference.images
        cure = "give yours with --calibration FOLDER"
        print(f"warning: calibrated on the {len(images)} reference images (cure: {cure})", file=sys.stderr)
    parity, beyond = write_int8(
        job.folder, half, job.reference, images, job.images.calibration_source, step=job.step
    )
    job.parity.update(parity)
    for form, why in beyond.items():
        job.refused["int8" if form == TRT else "int8 for onnxruntime"] = _left_out(form, why)


def _write_cells(job: Job) -> None:
    """Write the graph of local features, for banks of normal images."""
    try:
        with job.step("local features for anomalies"):
            write_cells(job.folder / MODELS["fp32"], CELLS_MODEL, job.nem, job.reference)
    except _REFUSED as error:
        (job.folder / CELLS_MODEL).unlink(missing_ok=True)
        job.refused["cells"] = _left_out(CELLS_MODEL, reason_of(error))


def _write_toward(job: Job) -> None:
    """Write the graph that takes targets beside each float graph, if the masker takes targets."""
    for precision, name in TOWARD_GRAPHS.items():
        if job.reference.toward is None or not (job.folder / GRAPHS[precision]).exists():
            continue
        try:
            job.parity.update(_write_one_toward(job, precision))
        except _REFUSED as error:
            if precision == "fp32":
                raise
            (job.folder / name).unlink(missing_ok=True)
            key = refused_key(precision, toward=True)
            job.refused[key] = _left_out(key, reason_of(error))


def _write_one_toward(job: Job, precision: str) -> dict[str, dict[str, Any]]:
    """Its parity through onnxruntime and, of a half graph, with torch in half precision."""
    toward, expected = job.reference.targets()
    model, simplified = _export(job, precision, toward=True)
    file = job.folder / TOWARD_GRAPHS[precision]
    with job.step(f"{precision}: parity toward targets"):
        if precision == "fp16":
            measure_ranges(model, expected.images, toward=toward).check(careful=False)
        save_beside(model, file, job.folder / GRAPHS[precision])
        outputs = {f"onnx {precision} toward": run_onnx(file, expected.images, toward)}
        if precision != "fp32":
            fused = Fused(job.nem, precision=precision)
            outputs[f"torch {precision} toward"] = run_torch(fused, expected.images, toward)
        figures = {name: gate(expected, name, *given, precision=precision) for name, given in outputs.items()}
    return {name: {**of.to_json(), "graph": simplified} for name, of in figures.items()}


def _left_out(what: str, reason: Reason) -> Reason:
    """The reason, after a warning that names it."""
    print(f"warning: {what} is left out: {sentence(reason)}", file=sys.stderr)
    return reason
