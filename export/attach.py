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
from typing import Any

import onnx

from export import engine, rules
from export.graph import save
from export.precision import AUTO, GRAPHS
from export.standalone import drop_mask
from export.targets import PORTABLE, Target
from export.verify import gate
from runtime.atomic import refuse_existing
from runtime.backends.tensorrt_library import library
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
from runtime.package import Engine, Package
from runtime.verify import embed_all, load_reference, run_all

_Plan = tuple[bytes, EngineRecord]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which engines to build, and for whom the graph is to be checked."""

    targets: tuple[Target, ...]
    precision: str
    """Of `export.precision.GRAPHS`, or `auto`: for each engine the first that passes every check."""
    batch: tuple[int, int, int]
    """min, opt, max"""
    workspace_bytes: int | None = None
    embedding_only: bool = False
    """Engines that give no mask, for indexing."""
    progress: bool = True
    force: bool = False

    def check(self) -> None:
        """Fail now, not after minutes of work, if a library is missing.

        Raises:
            BackendUnavailable: with the command that installs it.
        """
        for target in self.targets:
            if target.flavour is not None:
                library(target.flavour)

    def jobs(self) -> list[tuple[Target, str]]:
        """Each target with each GPU that it builds an engine for; with "" where it only checks the graph."""
        return [(t, gpu) for t in self.targets for gpu in (t.engines if t.flavour else ("",))]

    def precisions(self, package: Package) -> tuple[str, ...]:
        """What to try, in this order."""
        if self.precision != "auto":
            return (self.precision,)
        return tuple(p for p in AUTO if GRAPHS[p] in package.manifest.files)

    def name(self, target: Target, gpu: str, precision: str) -> str:
        """Of an engine: `rtx-sm75-fp16-b8`."""
        sm = "-sm" + gpu.replace(".", "") if target.flavour == "rtx" and gpu != PORTABLE else ""
        return f"{target.flavour}{sm}-{precision}-b{self.batch[2]}" + "-embedding" * self.embedding_only


@dataclass(frozen=True)
class Built:
    """What `build` made; nothing of it is written yet."""

    engines: dict[str, _Plan] = field(default_factory=dict)
    """Name → plan and sidecar."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What was asked for → why it was not built: in which precision, what stood against it."""
    notes: list[str] = field(default_factory=list)
    """Which engine has another precision than the first choice, and why."""


def build(package: Package, request: Request) -> Built:
    """Check the graph for each target; build each engine, and gate it here if this device can run it.

    What a rule, the builder or the gate refuses in one precision is tried in the next of
    `Request.precisions`; if none is left, it is left out and the others are built.

    Raises:
        OutputExists: an engine of that name is there and `request.force` is not set.
        ParityError, ExportError, InputError: a graph that was only to be checked is refused in every
            precision; or not one engine could be built.
        BackendUnavailable: see `export.engine.build`.
    """
    precisions = request.precisions(package)
    for target, gpu in request.jobs():
        if gpu:  # now, not after minutes of work
            refuse_existing(
                package.engine_path(request.name(target, gpu, precisions[0])), force=request.force
            )
    built, failures = Built(), list[NemuError]()
    for target, gpu in request.jobs():
        refused: dict[str, NemuError] = {}
        for precision in precisions:
            try:
                plan = _attempt(package, request, target, gpu, precision)
            except BackendUnavailable:
                raise
            except (ExportError, ParityError, InputError, BackendError) as error:
                refused[precision] = error
            else:
                if plan is not None:
                    built.engines[request.name(target, gpu, precision)] = plan
                built.notes.extend(
                    f"{_job(target, gpu)}: {precision}, not {_why(package, p, e)}" for p, e in refused.items()
                )
                break
        else:
            failures.append(_failure(package, target, gpu, refused))
            before = package.manifest.refused if request.precision == "auto" else {}
            reasons = [f"{p}: {why}" for p, why in before.items()]
            built.left_out[_job(target, gpu)] = "; ".join(
                [*reasons, *(_why(package, p, e) for p, e in refused.items())]
            )
            if not gpu:
                raise failures[-1]
    if failures and not built.engines:
        raise failures[0]
    return built


def write(package: Package, built: Built, *, force: bool) -> list[Engine]:
    """Add what was built to the package; raises `OutputExists` as `Package.add_engine` does."""
    records = {
        name: (plan, dataclasses.replace(r, package=package.hash))
        for name, (plan, r) in built.engines.items()
    }
    return [package.add_engine(name, *engine, force=force) for name, engine in records.items()]


def _attempt(package: Package, request: Request, target: Target, gpu: str, precision: str) -> _Plan | None:
    """One engine in one precision; None where there was only something to check."""
    graph = GRAPHS[precision]
    aimed = dataclasses.replace(target, gpus=("8.0" if gpu == PORTABLE else gpu,)) if gpu else target
    for finding in rules.check(package.file(graph), aimed):
        print(f"{graph} on {rules.described(target)}: warning: {finding}", file=sys.stderr)
    if not gpu or target.flavour is None:
        return None
    refuse_existing(package.engine_path(request.name(target, gpu, precision)), force=request.force)
    with _source(package.file(graph), request.embedding_only) as (source, outputs):
        built = engine.build(
            source,
            flavour=target.flavour,
            batch=request.batch,
            precision=precision,
            capability=gpu,
            workspace_bytes=request.workspace_bytes,
            outputs=outputs,
            progress=request.progress,
        )
    record = _record(package, built, graph)
    return built.plan, record.with_parity(_gate(package, built.plan, record))


def _job(target: Target, gpu: str) -> str:
    return f"{target.name} for {gpu}" if gpu else target.name


def _why(package: Package, precision: str, error: NemuError) -> str:
    """The reason in one line, without the cures of single findings and the package's own path."""
    lines = [line.strip() for line in error.came.replace(f"{package.path}/", "").splitlines()]
    return f"{precision}: " + " ".join(line for line in lines if not line.startswith("cure:"))


def _failure(package: Package, target: Target, gpu: str, refused: dict[str, NemuError]) -> NemuError:
    """The error itself where there was one choice; otherwise one that names each."""
    if len(refused) == 1:
        return next(iter(refused.values()))
    return ExportError(
        f"{_job(target, gpu)}: no precision does\n    "
        + "\n    ".join(_why(package, p, e) for p, e in refused.items()),
        expected="one precision that passes every check",
        cure="each line says what stands against it; leave that GPU out with another --target",
    )


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


def _record(package: Package, built: engine.BuiltEngine, graph: str) -> EngineRecord:
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
        parity={},
        build_seconds=built.build_seconds,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        outputs=tuple(name for name in OUTPUTS if name in built.outputs),
    )


def _gate(package: Package, plan: bytes, record: EngineRecord) -> dict[str, Any]:
    """The engine's parity on this device, or why it could not be run here."""
    from runtime.backends.tensorrt import open_engine

    with tempfile.TemporaryDirectory(prefix="nemu-") as folder:
        path = Path(folder) / "candidate.engine"
        path.write_bytes(plan)
        try:
            backend = open_engine(package, Engine(path, record))
        except (BackendUnavailable, EngineMismatch) as error:
            return {
                "not_run": error.came
            }  # RTX also builds for other machines than this: the sidecar says so
    name = f"{record.flavour} {record.precision} engine"
    try:
        reference = load_reference(package)
        if record.embedding_only:
            embedding = embed_all(backend, reference.images)
            parity = gate(reference, name, embedding, reference.mask, precision=record.precision)
            return parity.embedding_to_json()
        outputs = run_all(backend, reference.images)
    finally:
        backend.close()
    return gate(reference, name, *outputs, precision=record.precision).to_json()
