"""Attach engines to a package: built from its own ONNX, checked, written beside it.  No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from export import engine, rules
from export.graph import save
from export.precision import refusal
from export.ranges import measure_ranges
from export.request import Request
from export.standalone import drop_mask
from export.targets import PORTABLE, Target
from export.verify import gate
from runtime.atomic import refuse_existing
from runtime.backends import takes_targets
from runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineMismatch,
    ExportError,
    InputError,
    NemuError,
    ParityError,
)
from runtime.manifest import OUTPUTS, EngineRecord
from runtime.package import GRAPHS, TOWARD_GRAPHS, Engine, Package
from runtime.parity_record import ParityRecord, parity_record
from runtime.verify import embed_all, load_reference, run_all, run_all_toward

__all__ = ["Built", "Request", "build", "write"]

_Plan = tuple[bytes, EngineRecord]


@dataclass(frozen=True)
class Built:
    """What `build` made; nothing of it is written yet."""

    engines: dict[str, _Plan] = field(default_factory=dict)
    """Name → plan and sidecar."""
    checked: dict[str, list[str]] = field(default_factory=dict)
    """Target whose engines are built elsewhere → of each form that nothing known stands against, the options
    that build it there."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What was asked for → why it was not built: in which precision, what stood against it."""
    notes: list[str] = field(default_factory=list)
    """Which engine has another precision than the first choice, and why; what became of older engines."""
    stale: list[str] = field(default_factory=list)
    """Engines that are there already, in a precision that was refused now."""
    failures: list[NemuError] = field(default_factory=list)
    """The errors behind `left_out`."""

    @property
    def failure(self) -> NemuError | None:
        """What to raise if nothing was built of all that was asked for; None if something was."""
        if self.engines or not self.failures:
            return None
        if len(self.failures) == 1:
            return self.failures[0]
        kind = ParityError if all(isinstance(e, ParityError) for e in self.failures) else ExportError
        return kind(
            "nothing of what was asked for passes\n    "
            + "\n    ".join(f"{k}: {v}" for k, v in self.left_out.items()),
            expected="for each GPU one precision that passes every check",
            cure="each line says what stands against it; choose other GPUs with --target",
        )


def build(package: Package, *requests: Request) -> Built:
    """Check the graph for each target; build each engine, and gate it here if this device can run it.

    Args:
        requests: one for each form of engine.

    What a rule, the range of fp16, the builder or the gate refuses in one precision is tried in the next of
    `Request.precisions`; if none is left, it is left out and the others are built.

    Raises:
        InputError: engines for targets, and the package takes none, or has no such form of that precision.
        OutputExists: an engine of that name is there and `Request.force` is not set.
        ExportError: a target that is only checked would refuse every graph.
        ParityError: the precision that was asked for was refused when the package was made.
        BackendUnavailable: see `export.engine.build`.
    """
    for request in requests:
        _check(package, request)
    built = Built()
    for request in requests:
        for target, gpu in request.jobs():
            _do(package, request, target, gpu, built)
    return built


def _check(package: Package, request: Request) -> None:
    """Refuse now, not after minutes of work, what cannot be built; raises as `build`."""
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
        what = refusal(request.precision, toward=request.toward)
        raise ParityError(
            f"{what} was refused when {package.path} was made: {why}",
            expected="a precision that the package holds",
            cure="--precision auto",
        )
    precisions = request.precisions(package)
    for target, gpu in request.jobs():
        if gpu:
            name = request.name(target, gpu, precisions[0])
            refuse_existing(package.engine_path(name), force=request.force)


def _do(package: Package, request: Request, target: Target, gpu: str, built: Built) -> None:
    """One engine, in the first precision that passes; or one check of the graph."""
    job = request.job(target, gpu)
    refused: dict[str, NemuError] = {}
    for precision in request.precisions(package):
        name = request.name(target, gpu, precision)
        there = bool(gpu) and package.engine_path(name).exists()
        if there and refused and not request.force:
            built.notes.append(f"{job}: {precision} is there already: {name}.engine")
            break
        try:
            plan = _attempt(package, request, target, gpu, precision)
        except BackendUnavailable:
            raise
        except (ExportError, ParityError, InputError, BackendError) as error:
            refused[precision] = error
            built.stale.extend([name] * there)
            continue
        reasons = {p: _why(e) for p, e in refused.items()}
        if plan is None:
            built.checked.setdefault(target.name, []).append(request.options(precision))
        else:
            record = dataclasses.replace(plan[1], flags={**plan[1].flags, "instead_of": reasons})
            built.engines[name] = plan[0], record
            built.notes.extend(_without_companion(package, built, record, job))
        built.notes.extend(f"{job}: {precision}, not {p}: {why}" for p, why in reasons.items())
        break
    else:
        before = request.refused(package) if request.precision == "auto" else {}
        reasons = {**before, **{p: _why(e) for p, e in refused.items()}}
        built.left_out[job] = "; ".join(f"{p}: {why}" for p, why in reasons.items())
        built.failures.extend(refused.values())
        if not gpu:
            raise next(iter(refused.values()))


def write(package: Package, built: Built, *, force: bool) -> list[Engine]:
    """Add what was built to the package, and take away what is stale; raises as `Package.add_engine` does."""
    for name in built.stale:
        package.remove_engine(name)
        built.notes.append(f"{name}.engine was removed: its precision is refused now")
    records = {
        name: (plan, dataclasses.replace(r, package=package.hash))
        for name, (plan, r) in built.engines.items()
    }
    return [package.add_engine(name, *engine, force=force) for name, engine in records.items()]


def _attempt(package: Package, request: Request, target: Target, gpu: str, precision: str) -> _Plan | None:
    """One engine in one precision; None where there was only something to check."""
    graph = request.graphs[precision]
    aimed = dataclasses.replace(target, gpus=("8.0" if gpu == PORTABLE else gpu,)) if gpu else target
    for finding in rules.check(package.file(graph), aimed):
        print(f"{graph} on {rules.described(target)}: warning: {finding}", file=sys.stderr)
    if not gpu or target.flavour is None:
        return None
    if not request.toward:  # packages that take targets were made by versions that measure it
        _check_range(package, precision)
    with _source(package.file(graph), request.embedding_only) as (source, outputs):
        built = engine.build(
            source,
            flavour=target.flavour,
            batch=request.batch,
            precision=precision,
            capability=gpu,
            workspace_bytes=request.workspace_bytes,
            inputs=request.inputs,
            outputs=outputs,
            progress=request.progress,
        )
    record = _record(package, built, graph, request.inputs)
    return built.plan, dataclasses.replace(record, parity=_gate(package, built.plan, record))


def _check_range(package: Package, precision: str) -> None:
    """Refuse a half graph that leaves fp16, in a package of a version that did not measure that."""
    checked = package.manifest.parity.get("torch fp16", ParityRecord())
    made_with_it = checked.ranges is not None
    if precision in ("fp16", "int8") and not made_with_it:
        model = onnx.load(str(package.file(GRAPHS[precision])))
        measure_ranges(model, load_reference(package).images).check()


def _why(error: NemuError) -> str:
    """The reason in one line, without the cures of single findings."""
    lines = [line.strip() for line in error.came.splitlines()]
    return " ".join(line for line in lines if not line.startswith("cure:"))


@contextmanager
def _source(graph: Path, embedding_only: bool) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """What an engine is built from, and its outputs: the package's graph, or for now one without the mask."""
    if not embedding_only:
        yield graph, OUTPUTS
        return
    with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
        path = Path(folder) / graph.name
        save(drop_mask(onnx.load(str(graph))), path)
        yield path, OUTPUTS[:1]


def _record(package: Package, built: engine.BuiltEngine, graph: str, inputs: tuple[str, ...]) -> EngineRecord:
    return EngineRecord(
        flavour=built.flavour,
        version=built.version,
        compute_capability=built.compute_capability,
        precision=built.precision,
        tensor_types=built.tensor_types,
        batch=built.batch,
        onnx=graph,
        onnx_sha256=package.manifest.files[graph],
        package=package.hash,
        flags=built.flags,
        parity=ParityRecord(),
        build_seconds=built.build_seconds,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        outputs=tuple(name for name in OUTPUTS if name in built.outputs),
        inputs=inputs,
    )


def _without_companion(package: Package, built: Built, record: EngineRecord, job: str) -> Iterator[str]:
    """That an engine for targets is of no use yet: it runs beside a plain one of its precision."""
    there = [*(e.record for e in package.engines()), *(r for _, r in built.engines.values())]
    plain = [r for r in there if not (r.takes_target or r.embedding_only)]
    where = (record.precision, record.flavour, record.compute_capability)
    if record.takes_target and where not in {(r.precision, r.flavour, r.compute_capability) for r in plain}:
        yield (
            f"{job}: it runs beside a plain engine in {record.precision}, and there is none: build it with "
            f"--precision {record.precision}"
        )


def _gate(package: Package, plan: bytes, record: EngineRecord) -> ParityRecord:
    """The engine's parity on this device, or why it could not be run here."""
    from runtime.backends.tensorrt import open_engine

    with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
        path = Path(folder) / "candidate.engine"
        path.write_bytes(plan)
        try:
            backend = open_engine(package, Engine(path, record))
        except (BackendUnavailable, EngineMismatch) as error:
            # RTX also builds for other machines than this: the sidecar says so.
            code = "mismatch" if isinstance(error, EngineMismatch) else "unavailable"
            return ParityRecord(not_run=code)
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
