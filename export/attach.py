"""Attach engines to a package: built from its own ONNX, checked, written beside it.  No torch."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from export import engine, rules
from export.graph import save
from export.precision import GRAPHS
from export.standalone import drop_mask
from export.targets import PORTABLE, Target, left_out
from export.verify import gate
from runtime.atomic import refuse_existing
from runtime.backends.tensorrt_library import library
from runtime.errors import BackendUnavailable, EngineMismatch
from runtime.manifest import OUTPUTS, EngineRecord
from runtime.package import Engine, Package
from runtime.verify import embed_all, load_reference, run_all


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which engines to build, and for whom the graph is to be checked."""

    targets: tuple[Target, ...]
    precision: str
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

    def engines(self) -> dict[str, tuple[str, str]]:
        """Name of each engine → its flavour and compute capability.

        A target of several GPUs leaves out those that lack the precision, and says so; a target of one
        is left for `export.engine.build` to refuse.
        """
        wanted: dict[str, tuple[str, str]] = {}
        for target in self.targets:
            for capability in target.engines:
                if target.flavour is None:
                    continue
                why = left_out(capability, self.precision)
                if len(target.engines) > 1 and why:
                    print(
                        f"warning: target {target.name}: no engine for {capability}: {why}", file=sys.stderr
                    )
                    continue
                name = f"{target.flavour}-{self.precision}-b{self.batch[2]}"
                name += "-embedding" * self.embedding_only
                if target.flavour == "rtx" and capability != PORTABLE:
                    name = name.replace("rtx", "rtx-sm" + capability.replace(".", ""), 1)
                wanted[name] = target.flavour, capability
        return wanted


def add(package: Package, request: Request) -> list[Engine]:
    """Check the graph for each target; build each engine, gate it here if this device can run it, add all.

    Raises:
        OutputExists: an engine of that name is there and `request.force` is not set.
        ParityError: the engine's outputs are beyond the gate; it is not added.
        ExportError: the graph would not do on a target; or see `export.engine.build`.
        InputError, BackendUnavailable: see `export.engine.build`.
    """
    graph = GRAPHS[request.precision]
    for target in request.targets:
        for finding in rules.check(package.file(graph), target):
            print(f"{graph} on {rules.described(target)}: warning: {finding}", file=sys.stderr)
    wanted = request.engines()
    for name in wanted:
        refuse_existing(package.engine_path(name), force=request.force)
    with _source(package.file(graph), request.embedding_only) as (source, outputs):
        built = {name: _build(package, request, source, outputs, *where) for name, where in wanted.items()}
    return [package.add_engine(name, *engine, force=request.force) for name, engine in built.items()]


def _build(
    package: Package,
    request: Request,
    source: Path,
    outputs: tuple[str, ...],
    flavour: str,
    capability: str,
) -> tuple[bytes, EngineRecord]:
    built = engine.build(
        source,
        flavour=flavour,
        batch=request.batch,
        precision=request.precision,
        capability=capability,
        workspace_bytes=request.workspace_bytes,
        outputs=outputs,
        progress=request.progress,
    )
    record = _record(package, built, GRAPHS[request.precision])
    return built.plan, record.with_parity(_gate(package, built.plan, record))


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
