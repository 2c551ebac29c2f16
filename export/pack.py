"""Pack encoder and masker into a package: fuse, export, check, describe.  This part needs torch."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

import runtime
from export import external, graph
from export.calibrate import calibration_images
from export.card import model_card
from export.cells import write_cells
from export.fuse import Fused
from export.images import PHOTOGRAPHS, judged_images, level_images, reference_images
from export.int8 import TRT, Calibration, write_int8
from export.level import measure_level
from export.level_picture import LEVEL_PICTURE, level_picture
from export.metrics import measure
from export.precision import OPSETS, refusal
from export.ranges import measure_ranges, named
from export.standalone import write_beside
from export.target import measure_target
from export.verify import gate, run_onnx, run_torch
from runtime.backends.onnxruntime import CELLS_MODEL, EMBEDDING_MODELS, MODELS
from runtime.errors import ExportError, ParityError
from runtime.manifest import (
    SCHEMA,
    EncoderRecord,
    InputRecord,
    LevelRecord,
    Manifest,
    MaskerRecord,
    OutputRecord,
    TargetRecord,
)
from runtime.package import GRAPHS, MANIFEST, REFERENCE, TOWARD_GRAPHS, Package, files_in, sha256_file
from runtime.verify import Reference
from train.checkpoint import MaskerFile
from train.config import TrainConfig
from train.encoder import FrozenEncoder
from train.folder import run_of
from train.nem import NEM

Step = Callable[[str], AbstractContextManager[None]]
"""Wraps each long step, for progress."""

_Parity = dict[str, dict[str, Any]]
_IN_FP16 = "its layers in fp16: "


def make_package(
    folder: Path,
    *,
    name: str,
    masker: Path,
    weights: str | None,
    reference: Path | None,
    calibration: Path | None,
    evaluate: Path | None,
    precision: str,
    simplify: bool,
    step: Step,
) -> Package:
    """Fill an empty folder with a package, without engines.

    Args:
        name: what the package will be called, for its model card.
        reference: folder of photographs that may be shipped; None takes the project's own.
        calibration: folder of photographs for int8's ranges, and for those that fp16 must hold; None takes
            the reference images alone, and says so for int8.
        evaluate: folder of photographs that the card's metrics are measured on; None takes the reference
            images.
        precision: of `export.precision.GRAPHS`: its graphs are added beside the fp32 one.  `auto` takes fp16,
            else bf16, else neither; int8 that is refused goes on as `auto`.  `Manifest.refused` says why.

    Raises:
        ParityError: a graph is beyond the gate: that of fp32, or of the precision that was asked for.
        InputError, MaskerMismatch, SchemaError: see `train.checkpoint.MaskerFile`, `train.folder.run_of`.
        ExportError: see `export.graph`.
    """
    with step("loading encoder and masker"):
        file = MaskerFile.open(masker)
        nem, config, training = file.nem(weights=weights), file.config, run_of(file)
        size = nem.encoder.input
        images = reference_images(reference or PHOTOGRAPHS, size)
        judged = judged_images(images, size, named=reference, evaluate=evaluate, trained_on=config.data)
        unseen = level_images(judged, size, evaluate=evaluate, masker=file, trained_on=config.data)
        if training is not None and training.fault:
            print(f"warning: {training.fault}", file=sys.stderr)
    with step(f"torch reference on {len(images)} images"):
        expected = _reference(nem, images)
    job = _Job(folder, nem, expected, calibration, simplify, step)
    parity = _write_graph(job, "fp32", _graph(job, "fp32"))
    write_beside(folder / MODELS["fp32"], EMBEDDING_MODELS["fp32"], expected, precision="fp32")
    others, refused = _write_others(job, precision)
    refused |= _write_cells(job)
    np.savez_compressed(folder / REFERENCE, **expected.arrays())
    with step(f"metrics on {len(judged[0])} images"):
        metrics = measure(folder / GRAPHS["fp32"], judged[0], mean=size.mean, source=judged[1])
    toward, beyond = _write_toward(job)
    level, target = _levels(job, *unseen) if len(unseen[0]) else (None, None)
    manifest = Manifest(
        schema=SCHEMA,
        nemu=runtime.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        embedding_id=embedding_id(nem.encoder),
        encoder=nem.encoder.record,
        masker=_masker_record(file),
        input=size,
        outputs=_outputs(nem.encoder.record, size),
        parity=parity | others | toward,
        files={},
        training=training,
        metrics=metrics,
        level=level,
        target=target,
        refused=refused | beyond,
    )
    return seal(folder, manifest, name)


def _reference(nem: NEM, images: np.ndarray) -> Reference:
    """What torch gives for the images; and, if the masker takes them, toward targets.

    The targets are every second image's own embedding and, for the others, that of the next image.
    """
    fused = Fused(nem, precision="fp32")
    plain = Reference(images, *run_torch(fused, images))
    if not nem.takes_target:
        return plain
    others = np.arange(len(images))[:, None] % 2 == 1
    toward = np.where(others, np.roll(plain.embedding, -1, axis=0), plain.embedding)
    return plain._replace(toward=toward, toward_mask=run_torch(fused, images, toward)[1])


def _levels(job: _Job, unseen: np.ndarray, source: str) -> tuple[LevelRecord, TargetRecord | None]:
    """What a level of the mask means, and what masks toward a target are worth, by the written graphs."""
    whole, alone, asked = (
        job.folder / name for name in (GRAPHS["fp32"], EMBEDDING_MODELS["fp32"], TOWARD_GRAPHS["fp32"])
    )
    mean = job.nem.encoder.input.mean
    with job.step(f"the level's meaning on {len(unseen)} images"):
        level = measure_level((whole, alone), unseen, mean=mean, source=source)
    if not asked.exists():
        return level, None
    with job.step("masks toward targets, on mixtures of them"):
        return level, measure_target((asked, alone), unseen, mean=mean, source=source)


def embedding_id(encoder: FrozenEncoder) -> str:
    """Equal for two packages exactly if encoder weights, embedding and preprocessing are equal."""
    r = encoder.record
    what = json.dumps(
        [r.fingerprint, r.embedding, r.l2_normalized, dataclasses.asdict(encoder.input)], sort_keys=True
    )
    name = r.id.rpartition("/")[2].rpartition(":")[2]
    return f"{name}-{r.embedding}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def _masker_record(file: MaskerFile) -> MaskerRecord:
    return MaskerRecord(
        architecture=file.config.masker,
        sha256=file.sha256,
        objective=file.config.objective,
        config=_shippable(file.config),
    )


def _shippable(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the maker's folders: of paths, only the last name."""
    fields = dataclasses.asdict(config)
    fields["data"] = Path(config.data).name or "."
    if config.encoder.weights is not None:
        fields["encoder"]["weights"] = Path(config.encoder.weights).name
    return fields


class _Job(NamedTuple):
    """What every graph of one package is made from, and checked against."""

    folder: Path
    nem: NEM
    expected: Reference
    calibration: Path | None
    simplify: bool
    step: Step


def _write_others(job: _Job, precision: str) -> tuple[_Parity, dict[str, str]]:
    """Write the graphs beside the fp32 one: what was asked for, or the first that `auto` may take.

    Returns:
        Their parity; and each precision that was tried and refused → why.
    """
    parity, refused = _write_int8(job) if precision == "int8" else (_Parity(), dict[str, str]())
    if precision == "fp32" or GRAPHS["int8"] in {file.name for file in job.folder.iterdir()}:
        return parity, refused
    steps_on = precision in ("auto", "int8")
    for half in ("fp16", "bf16") if steps_on else (precision,):
        if half == "fp16" and refused.get("int8", "").startswith(_IN_FP16):
            refused[half] = refused["int8"].removeprefix(_IN_FP16)
            continue
        before = set(job.folder.iterdir())
        try:
            model, how = _graph(job, half)
            checked = _check_half(job, half, model, careful=steps_on)
            return parity | checked | _write_graph(job, half, (model, how)), refused
        except (ParityError, ExportError) as error:
            if not steps_on:
                raise
            for file in set(job.folder.iterdir()) - before:
                file.unlink()
            refused[half] = _left_out(half, error.came)
    return parity, refused


def _left_out(what: str, why: str) -> str:
    """The reason in one line, which is also printed."""
    line = " ".join(why.split())
    print(f"warning: {what} is left out: {line}", file=sys.stderr)
    return line


def _write_graph(job: _Job, precision: str, made: tuple[onnx.ModelProto, str]) -> _Parity:
    """Write the graph of a float precision; its parity through onnxruntime."""
    file = job.folder / GRAPHS[precision]
    model, how = made
    graph.save(model, file)
    with job.step(f"{precision}: parity through onnxruntime"):
        figures = gate(job.expected, file.name, *run_onnx(file, job.expected.images), precision=precision)
    return {f"onnx {precision}": {**figures.to_json(), "graph": how}}


def _write_cells(job: _Job) -> dict[str, str]:
    """Write the graph for banks of normal pictures, or say why the package has none."""
    try:
        with job.step("local features for anomalies"):
            write_cells(job.folder / MODELS["fp32"], CELLS_MODEL, job.nem, job.expected)
    except (ParityError, ExportError) as error:
        (job.folder / CELLS_MODEL).unlink(missing_ok=True)
        return {"cells": _left_out(CELLS_MODEL, error.came)}
    return {}


def _write_int8(job: _Job) -> tuple[_Parity, dict[str, str]]:
    """Write both int8 graphs; their parity, and what was refused.

    Layers of the one for TensorRT that are not int8 compute in fp16, which must hold what they compute.
    """
    model, _ = _graph(job, "int8")
    half: onnx.ModelProto | None = model
    parity, refused = _Parity(), dict[str, str]()
    try:
        parity = _check_half(job, "fp16", model, careful=True)
    except ParityError as error:
        half, refused["int8"] = None, _left_out("int8 for TensorRT", _IN_FP16 + error.came)
    images = _calibration(job.calibration, job.expected.images, job.nem.encoder.input)
    written, beyond = write_int8(job.folder, half, job.expected, images, step=job.step)
    for form, why in beyond.items():
        refused["int8" if form == TRT else "int8 for onnxruntime"] = _left_out(form, why)
    return parity | written, refused


def _write_toward(job: _Job) -> tuple[_Parity, dict[str, str]]:
    """Write the graph that takes targets beside each float graph; their parity, and why one was refused."""
    parity, refused = _Parity(), dict[str, str]()
    for precision, name in TOWARD_GRAPHS.items():
        if job.expected.toward is None or not (job.folder / GRAPHS[precision]).exists():
            continue
        try:
            parity |= _write_one_toward(job, precision)
        except (ParityError, ExportError) as error:
            if precision == "fp32":
                raise
            (job.folder / name).unlink(missing_ok=True)
            key = refusal(precision, toward=True)
            refused[key] = _left_out(key, error.came)
    return parity, refused


def _write_one_toward(job: _Job, precision: str) -> _Parity:
    """Its parity through onnxruntime and, of a half graph, in torch's own arithmetic."""
    toward, expected = job.expected.targets()
    model, how = _graph(job, precision, toward=True)
    file = job.folder / TOWARD_GRAPHS[precision]
    with job.step(f"{precision}: parity toward targets"):
        if precision == "fp16":
            measure_ranges(model, expected.images, toward=toward).check(careful=False)
        external.save_beside(model, file, job.folder / GRAPHS[precision])
        outputs = {f"onnx {precision} toward": run_onnx(file, expected.images, toward)}
        if precision != "fp32":
            fused = Fused(job.nem, precision=precision)
            outputs[f"torch {precision} toward"] = run_torch(fused, expected.images, toward)
        figures = {name: gate(expected, name, *given, precision=precision) for name, given in outputs.items()}
    return {name: {**of.to_json(), "graph": how} for name, of in figures.items()}


def _check_half(job: _Job, half: str, model: onnx.ModelProto, *, careful: bool) -> _Parity:
    """Whether half precision can hold what the graph computes, and parity in torch's own half precision.

    A CPU computes half graphs in fp32, so that onnxruntime would not see either.
    """
    found: dict[str, Any] = {}
    if half == "fp16":
        with job.step("fp16: range of every tensor"):
            ranges = measure_ranges(model, *_images_for_ranges(job))
            ranges.check(careful=careful)
        found["ranges"] = ranges.to_json()
        if near := ranges.near():
            print(f"warning: near the end of fp16 (65504): {named(near)}", file=sys.stderr)
    with job.step(f"{half}: torch in half precision"):
        outputs = run_torch(Fused(job.nem, precision=half), job.expected.images)
        figures = gate(job.expected, f"torch {half}", *outputs, precision=half)
    return {f"torch {half}": {**figures.to_json(), **found}}


def _images_for_ranges(job: _Job) -> Iterator[np.ndarray]:
    yield job.expected.images
    if job.calibration is not None:
        yield calibration_images(job.calibration, job.nem.encoder.input)


def _graph(job: _Job, precision: str, *, toward: bool = False) -> tuple[onnx.ModelProto, str]:
    """Export, simplify, lint; the graph and what the simplifier did."""
    file = TOWARD_GRAPHS[precision] if toward else GRAPHS[precision]
    size, opset = job.nem.encoder.input, OPSETS[precision]
    with job.step(f"{precision}: exporting {file}"):
        fused = Fused(job.nem, precision=precision)
        model = graph.export_onnx(fused, height=size.height, width=size.width, opset=opset, toward=toward)
        model, how = graph.simplify(model) if job.simplify else (model, "not simplified: --no-simplify")
        graph.lint(model, opset=opset, toward=toward)
    return model, how


def _calibration(folder: Path | None, reference: np.ndarray, size: InputRecord) -> Calibration:
    if folder is not None:
        return Calibration(images=calibration_images(folder, size), source=folder.name)
    said = f"CALIBRATED ON THE {len(reference)} REFERENCE IMAGES: give yours with --calibration FOLDER"
    print(said, file=sys.stderr)
    return Calibration(images=reference, source=said)


def _outputs(encoder: EncoderRecord, size: InputRecord) -> tuple[OutputRecord, ...]:
    return (
        OutputRecord(
            name="embedding",
            shape=("N", encoder.dimension),
            meaning=f"the encoder's {encoder.embedding} embedding",
        ),
        OutputRecord(
            name="mask",
            shape=("N", size.height, size.width),
            meaning="0 to 1, higher = more important for the embedding",
        ),
    )


def seal(folder: Path, manifest: Manifest, name: str) -> Package:
    """Write the card and its picture, then the manifest with every file's hash, and open the result."""
    (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier seal
    if manifest.level is not None:
        (folder / LEVEL_PICTURE).write_text(level_picture(manifest.level))
    (folder / "README.md").write_text(model_card(manifest, name=name))
    for _, file in files_in(folder):
        file.chmod(0o644)  # onnx leaves its weights readable by their owner only
    files = {path: sha256_file(file) for path, file in files_in(folder)}
    manifest = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST).write_text(manifest.to_json())
    return Package.open(folder)
