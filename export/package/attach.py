"""Add engines to a package: build them from its ONNX, check their parity, write them.  Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import onnx

from export.engine import builder
from export.graph import rules
from export.graph.from_torch import save
from export.graph.gate import gate, reason_of, refused_key
from export.graph.ranges import measure_ranges
from export.graph.variants import drop_mask
from export.request import Job, Request
from export.targets import PORTABLE
from runtime.atomic import refuse_existing
from runtime.backends.choice import takes_targets
from runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineMismatch,
    ExportError,
    InputError,
    NemuError,
    ParityError,
)
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Engine, Package
from runtime.package.manifest import OUTPUTS, EngineRecord
from runtime.package.reasons import Reason, sentence
from runtime.package.records import ParityRecord, parity_record
from runtime.package.reference import load_reference
from runtime.verify import embed_all, run_all, run_all_toward

_REFUSED = (ExportError, ParityError, InputError, BackendError)


class Plan(NamedTuple):
    """An engine that is not written yet."""

    plan: bytes
    record: EngineRecord


@dataclass(frozen=True)
class Built:
    """What `build` made; nothing of it is written yet."""

    engines: dict[str, Plan] = field(default_factory=dict)
    """Name → plan and sidecar."""
    checked: dict[str, list[str]] = field(default_factory=dict)
    """Target whose engines are built elsewhere → for each form whose graph breaks no rule, the options that
    build its engine there."""
    left_out: dict[str, dict[str, Reason]] = field(default_factory=dict)
    """Engine that was asked for and not built → precision that was tried → what stood against it."""
    notes: list[str] = field(default_factory=list)
    """Which engine has another precision than the first choice, and why; what became of older engines."""
    stale: list[str] = field(default_factory=list)
    """Engines that are there already, in a precision that was refused now."""
    failures: list[NemuError] = field(default_factory=list)
    """The errors behind `left_out`."""

    @property
    def failure(self) -> NemuError | None:
        """The error to raise if no requested engine was built; None if one was."""
        if self.engines or not self.failures:
            return None
        if len(self.failures) == 1:
            return self.failures[0]
        kind = ParityError if all(isinstance(e, ParityError) for e in self.failures) else ExportError
        return kind(
            "nothing of what was asked for passes\n    "
            + "\n    ".join(f"{job}: {sentence(why)}" for job, why in self.left_out.items()),
            expected="for each GPU one precision that passes every check",
            cure="each line says what stands against it; choose other GPUs with --target",
        )


def build(package: Package, *requests: Request) -> Built:
    """Check the graph for each target; build each engine, and run the gate if this device can run it.

    Args:
        requests: one for each form of engine.

    If a rule, the range of fp16, the builder or the gate refuses one precision, the next of
    `Request.precisions` is tried.  If none passes, that engine is left out and the others are built.

    Raises:
        InputError: engines for targets, and the package takes none, or has no such form of that precision.
        OutputExists: an engine of that name is there and `Request.force` is not set.
        ExportError: a target that is only checked would refuse every graph.
        ParityError: the precision that was asked for was refused when the package was made.
        BackendUnavailable: see `export.engine.builder.build`.
    """
    for request in requests:
        _check(package, request)
    built = Built()
    for request in requests:
        for job in request.jobs():
            _note(built, package, request, job)
    return built


def write(package: Package, built: Built, *, force: bool) -> list[Engine]:
    """Add what was built to the package, and remove what is stale; raises as `Package.add_engine` does."""
    for name in built.stale:
        package.remove_engine(name)
        built.notes.append(f"{name}.engine was removed: its precision is refused now")
    return [
        package.add_engine(name, plan, dataclasses.replace(record, package=package.hash), force=force)
        for name, (plan, record) in built.engines.items()
    ]


def _check(package: Package, request: Request) -> None:
    """Refuse what cannot be built before minutes of work; raises as `build`."""
    if request.toward and not takes_targets(package):
        raise InputError(
            f"engines for targets of {package.path}, whose masker takes none",
            expected=f"a package with {TOWARD_GRAPHS['fp32']}",
            cure="train a masker that takes targets: nemu train --toward; then build its package",
        )
    if request.precision not in ("auto", *request.graphs):
        raise InputError(
            f"engines for targets in {request.precision}",
            expected=" or ".join(("auto", *request.graphs)),
            cure="--precision auto",
        )
    why = request.refused(package).get(request.precision)
    if why is not None:
        what = refused_key(request.precision, toward=request.toward)
        raise ParityError(
            f"{what} was refused when {package.path} was made: {sentence(why)}",
            expected="a precision that the package holds",
            cure="--precision auto",
        )
    first = request.precisions(package)[0]
    for job in request.jobs():
        if job.gpu:
            refuse_existing(package.engine_path(request.name(job, first)), force=request.force)


def _try_each(
    package: Package, request: Request, job: Job
) -> tuple[str | None, Plan | None, dict[str, NemuError]]:
    """One engine, or one check of the graph, in the first precision that passes.

    Returns:
        That precision, None if none passed; the engine, None if there was none to build or it is there
        already; and precision that was tried before → what stood against it.
    """
    refused: dict[str, NemuError] = {}
    for precision in request.precisions(package):
        if refused and not request.force and _is_there(package, request, job, precision):
            return precision, None, refused
        try:
            return precision, _attempt(package, request, job, precision), refused
        except BackendUnavailable:
            raise
        except _REFUSED as error:
            refused[precision] = error
    return None, None, refused


def _is_there(package: Package, request: Request, job: Job, precision: str) -> bool:
    return bool(job.gpu) and package.engine_path(request.name(job, precision)).exists()


def _note(built: Built, package: Package, request: Request, job: Job) -> None:
    """Do one job and enter what became of it; raises the first refusal if it was only a check and failed."""
    precision, plan, refused = _try_each(package, request, job)
    reasons = {p: reason_of(error) for p, error in refused.items()}
    built.stale.extend(request.name(job, p) for p in refused if _is_there(package, request, job, p))
    label = request.label(job)
    if precision is None:
        before = request.refused(package) if request.precision == "auto" else {}
        built.left_out[label] = {**before, **reasons}
        built.failures.extend(refused.values())
        if not job.gpu:
            raise next(iter(refused.values()))
        return
    name = request.name(job, precision)
    if plan is not None:
        record = dataclasses.replace(plan.record, flags={**plan.record.flags, "instead_of": reasons})
        built.engines[name] = plan._replace(record=record)
        built.notes.extend(_without_companion(package, built, record, label))
    elif job.gpu:
        built.notes.append(f"{label}: {precision} is there already: {name}.engine")
        return
    else:
        built.checked.setdefault(job.target.name, []).append(request.options(precision))
    built.notes.extend(f"{label}: {precision}, not {p}: {sentence(why)}" for p, why in reasons.items())


def _attempt(package: Package, request: Request, job: Job, precision: str) -> Plan | None:
    """One engine in one precision; None if the graph is only checked."""
    graph, target = request.graphs[precision], job.target
    if job.gpu:
        target = dataclasses.replace(target, gpus=("8.0" if job.gpu == PORTABLE else job.gpu,))
    for finding in rules.check(package.file(graph), target):
        print(f"{graph} on {rules.described(target)}: warning: {finding}", file=sys.stderr)
    if not job.gpu or target.flavour is None:
        return None
    if not request.toward:  # packages that take targets come from versions that measure it
        _check_range(package, precision)
    with _graph_file(package.file(graph), request.embedding_only) as (path, outputs):
        built = builder.build(
            path,
            flavour=target.flavour,
            batch=request.batch,
            precision=precision,
            capability=job.gpu,
            workspace_bytes=request.workspace_bytes,
            inputs=request.inputs,
            outputs=outputs,
            progress=request.progress,
        )
    record = _record(package, request, built)
    return Plan(built.plan, dataclasses.replace(record, parity=_gate(package, built.plan, record)))


def _check_range(package: Package, precision: str) -> None:
    """Measure the range of a half graph, if the version that made the package did not."""
    made_with_it = package.manifest.parity.get("torch fp16", ParityRecord()).ranges is not None
    if precision in ("fp16", "int8") and not made_with_it:
        model = onnx.load(str(package.file(GRAPHS[precision])))
        measure_ranges(model, load_reference(package).images).check()


@contextmanager
def _graph_file(graph: Path, embedding_only: bool) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The file an engine is built from, and its outputs: the package's graph, or a copy without the mask."""
    if not embedding_only:
        yield graph, OUTPUTS
        return
    with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
        path = Path(folder) / graph.name
        save(drop_mask(onnx.load(str(graph))), path)
        yield path, OUTPUTS[:1]


def _record(package: Package, request: Request, built: builder.BuiltEngine) -> EngineRecord:
    graph = request.graphs[built.precision]
    fields = {key: value for key, value in vars(built).items() if key != "plan"}
    fields |= {"inputs": request.inputs, "outputs": tuple(name for name in OUTPUTS if name in built.outputs)}
    return EngineRecord(
        **fields,
        onnx=graph,
        onnx_sha256=package.manifest.files[graph],
        package=package.hash,
        parity=ParityRecord(),
        sha256=hashlib.sha256(built.plan).hexdigest(),
    )


def _without_companion(package: Package, built: Built, record: EngineRecord, label: str) -> Iterator[str]:
    """A note if an engine for targets cannot be used yet: it runs beside a plain one of its precision."""
    there = [*(e.record for e in package.engines()), *(r for _, r in built.engines.values())]
    plain = [r for r in there if not (r.takes_target or r.embedding_only)]
    where = (record.precision, record.flavour, record.compute_capability)
    if record.takes_target and where not in {(r.precision, r.flavour, r.compute_capability) for r in plain}:
        yield (
            f"{label}: it runs beside a plain engine in {record.precision}, and there is none: build it with "
            f"--precision {record.precision}"
        )


def _gate(package: Package, plan: bytes, record: EngineRecord) -> ParityRecord:
    """The engine's parity on this device; or `not_run` and a code of `runtime.package.reasons.not_run`."""
    from runtime.backends.tensorrt.selection import open_engine

    with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
        path = Path(folder) / "candidate.engine"
        path.write_bytes(plan)
        try:
            backend = open_engine(package, Engine(path, record))
        except (BackendUnavailable, EngineMismatch) as error:  # RTX builds for other machines too
            return ParityRecord(not_run="mismatch" if isinstance(error, EngineMismatch) else "unavailable")
    name = f"{record.flavour} {record.precision} engine" + " for targets" * record.takes_target
    try:
        reference = load_reference(package)
        if record.embedding_only:
            embedding = embed_all(backend, reference.images)
            parity = gate(reference, name, embedding, reference.mask, precision=record.precision)
            return parity_record(parity.embedding_to_json())
        if record.takes_target:
            toward, asked = reference.targets()
            outputs = run_all_toward(backend, asked.images, toward)
            parity = gate(asked, name, *outputs, precision=record.precision)
            return parity_record({**parity.to_json(), "target_effect": reference.target_effect()})
        outputs = run_all(backend, reference.images)
    finally:
        backend.close()
    return parity_record(gate(reference, name, *outputs, precision=record.precision).to_json())
