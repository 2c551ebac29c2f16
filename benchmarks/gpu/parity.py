"""Try every engine of a package on this machine and compare its outputs with onnxruntime on the CPU.

An engine is opened as the runtime opens it.  One that the runtime refuses, e.g. of TensorRT-RTX on a Hopper,
is tried all the same, and the report says what happened.  Outputs are poisoned before every run.  An engine
that takes targets is given each image with the embedding of another.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.record import meta, write
from benchmarks.gpu.steps import EP_RTX
from runtime.backends import cuda
from runtime.backends.choice import choose, takes_targets, toward_backend
from runtime.backends.tensorrt.library import library, logger, validity
from runtime.backends.tensorrt.selection import TensorRTBackend, check_first_opening, open_engine
from runtime.cli.bench import bench
from runtime.errors import BackendUnavailable, EngineMismatch
from runtime.explainer import Explainer
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Engine, Package
from runtime.package.parity import measure
from runtime.package.reference import limits_for, load_reference
from runtime.verify import run_all, run_all_toward, verify, verify_toward

Outputs = tuple[np.ndarray, np.ndarray]
"""Embeddings and masks."""


class Task(NamedTuple):
    """What an engine is run on, and what it should give."""

    images: np.ndarray
    """uint8 (N, H, W, 3)"""
    toward: np.ndarray | None
    """float32 (N, D): a target for each image; None for an engine without targets."""
    expected: Outputs


def main(argv: list[str] | None = None) -> int:
    """Try the engines; the report is written after every one, so a crash loses only the last."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("path", type=Path, help="JSON file to write, or to add to")
    p.add_argument("--package", type=Path)
    p.add_argument("--flavour", default="rtx", help="only engines of this flavour of TensorRT (%(default)s)")
    options = p.parse_args(argv)
    result: dict[str, Any] = {"meta": meta()}
    if options.path.is_file():
        result = json.loads(options.path.read_text())
    for part in ("engines", "provider", "skipped"):
        result.setdefault(part, [])

    def save() -> None:
        write(options.path, result)

    save()
    package = None if options.package is None else Package.open(options.package)
    if options.flavour == EP_RTX:
        _provider(package, result, save)
    else:
        _flavour(package, options.flavour, result, save)
    save()
    return 0


def _flavour(package: Package | None, flavour: str, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Try the package's engines of one flavour that give a mask."""
    engines = [] if package is None else [e for e in package.engines() if e.record.flavour == flavour]
    engines = [engine for engine in engines if not engine.record.embedding_only]
    why = ""
    try:
        library(flavour)
    except BackendUnavailable as error:
        why = error.came
    if package is None or not engines or why:
        why = why or ("there is no package" if package is None else "the package has no engine with a mask")
        result["skipped"].append({"what": f"parity of {flavour} engines", "why": why})
        return
    images = load_reference(package).images
    with closing(choose(package, "onnxruntime")) as cpu:
        expected = asked = run_all(cpu, images)
        toward = np.roll(expected[0], 1, axis=0)
        if takes_targets(package):
            with closing(toward_backend(package, cpu)) as asks:
                asked = run_all_toward(asks, images, toward)
    result["reference"] = f"onnxruntime on the CPU, fp32, {len(images)} reference images of the package"
    for engine in engines:
        report: dict[str, Any] = {"engine": engine.path.name, "record": engine.record.fields()}
        result["engines"].append(report)
        targets, right = (toward, asked) if engine.record.takes_target else (None, expected)
        task = Task(images, targets, right)
        try:
            _try(package, engine, task, report, save)
        except BackendUnavailable as error:
            report["error"] = str(error)
            result["skipped"].append({"what": f"running {engine.path.name}", "why": error.came})
        except Exception as error:  # noqa: BLE001  # any failure on an unlisted GPU is reported
            report["error"] = f"{type(error).__name__}: {error}"


def _provider(package: Package | None, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Try the package with onnxruntime's TensorRT-RTX provider, in each precision that it has."""
    if package is None:
        result["skipped"].append({"what": EP_RTX, "why": "there is no package"})
        return
    for precision, file in GRAPHS.items():
        if file not in package.manifest.files:
            continue
        report: dict[str, Any] = {"precision": precision}
        result["provider"].append(report)
        save()  # so that the report exists if the process crashes
        try:
            _try_provider(package, precision, report)
        except BackendUnavailable as error:
            report["error"] = error.came
            result["skipped"].append({"what": EP_RTX, "why": error.came})
            return
        except Exception as error:  # noqa: BLE001  # any failure on this card is reported
            report["error"] = f"{type(error).__name__}: {error}"
        save()


def _try_provider(package: Package, precision: str, report: dict[str, Any]) -> None:
    """Open it twice, the second time with kernels from the cache; measure parity and time."""
    for which in ("first", "second"):
        started = time.monotonic()
        explainer = Explainer(package, backend=EP_RTX, precision=precision)
        report[f"{which}_opening_seconds"] = time.monotonic() - started
        report["why"] = explainer.backend.why
        if which == "first":
            explainer.close()
    with explainer:
        report["parity"] = verify(package, explainer.backend).to_json()
        if takes_targets(package) and precision in TOWARD_GRAPHS:
            with closing(toward_backend(package, explainer.backend)) as asks:
                report["parity_toward"] = verify_toward(package, asks).to_json()
        report["rows"] = [row._asdict() for row in bench(explainer, seconds=1.0)]


def _try(
    package: Package, engine: Engine, task: Task, report: dict[str, Any], save: Callable[[], None]
) -> None:
    """Fill `report`; `save` is called before every step that may crash the process."""
    rtx, plan = engine.record.flavour == "rtx", engine.read()
    try:
        gpu = cuda.device(0)
    except BackendUnavailable:
        if rtx:
            _judge(plan, report)  # from the plan's header alone
        raise
    if rtx:
        with cuda.implementation().current(gpu.index):
            _judge(plan, report)
    report["gpu"] = asdict(gpu)
    report["stage"] = "opening"
    save()
    started = time.monotonic()
    try:
        backend = open_engine(package, engine, unlisted=True)
        report["refused"] = ""
    except EngineMismatch as error:
        report["refused"] = error.came
        save()
        backend = TensorRTBackend(engine, plan=plan, input=package.manifest.input, gpu=gpu)
    with closing(backend):
        report["why"] = backend.why
        report["open_seconds"] = time.monotonic() - started
        report["stage"] = "running"
        report["load_log"] = list(backend.load_log)
        save()
        _compare(backend, engine, task, report, save)
        report["stage"] = "first opening"
        report["first_opening"] = check_first_opening(package, engine, backend, gpu)
        report["stage"] = "done"


def _compare(
    backend: TensorRTBackend, engine: Engine, task: Task, report: dict[str, Any], save: Callable[[], None]
) -> None:
    """Add the parity of one image at a time and of full batches to `report`."""
    limits = limits_for(engine.record.precision)
    for batch in sorted({1, backend.max_batch}):
        embedding, mask = _poisoned_run(backend, task.images, task.toward, batch)
        parity = measure(
            embedding=embedding,
            mask=mask,
            reference_embedding=task.expected[0],
            reference_mask=task.expected[1],
            limits=limits,
        )
        report.setdefault("parity", {})[f"batch {batch}"] = parity.to_json()
        report.setdefault("failures", []).extend(parity.failures(limits))
        report["degraded"] = backend.degraded
        save()


def _judge(plan: bytes, report: dict[str, Any]) -> None:
    """Add TensorRT-RTX's own verdict on the plan, which it gives before loading it."""
    report["validity"] = asdict(validity(plan))
    report["validity_log"] = list(logger(library("rtx")).lines)


def _poisoned_run(
    backend: TensorRTBackend, images: np.ndarray, toward: np.ndarray | None, batch: int
) -> Outputs:
    """Run all images, `batch` at a time; every output buffer holds NaN before each run."""
    parts = []
    for start in range(0, len(images), batch):
        backend.poison()
        which = slice(start, start + batch)
        given = images[which]
        parts.append(backend.run(given) if toward is None else backend.run_toward(given, toward[which]))
    embedding, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
    return embedding, mask


if __name__ == "__main__":
    sys.exit(main())
