"""Attach engines to a package: built from its own ONNX, checked, written beside it.  No torch."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import engine
from export.precision import GRAPHS
from export.verify import gate
from runtime.atomic import refuse_existing
from runtime.backends.tensorrt_library import library
from runtime.errors import BackendUnavailable, EngineMismatch
from runtime.manifest import EngineRecord
from runtime.package import Engine, Package
from runtime.verify import load_reference, run_all


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which engines to build."""

    targets: tuple[str, ...]
    """Of `export.engine.FLAVOURS`."""
    precision: str
    batch: tuple[int, int, int]
    """min, opt, max"""
    workspace_bytes: int | None = None
    progress: bool = True
    force: bool = False

    def check(self) -> None:
        """Fail now, not after minutes of work, if a library is missing.

        Raises:
            BackendUnavailable: with the command that installs it.
        """
        for target in self.targets:
            library(target)


def add(package: Package, request: Request) -> list[Engine]:
    """Build each requested engine, gate it on this device if that can run it, and add it.

    Raises:
        OutputExists: an engine of that name is there and `request.force` is not set.
        ParityError: the engine's outputs are beyond the gate; it is not added.
        BackendUnavailable, ExportError: see `export.engine.build`.
    """
    added = []
    for target in request.targets:
        name = f"{target}-{request.precision}-b{request.batch[2]}"
        refuse_existing(package.engine_path(name), force=request.force)
        graph = GRAPHS[request.precision]
        built = engine.build(
            package.file(graph),
            flavour=target,
            batch=request.batch,
            precision=request.precision,
            workspace_bytes=request.workspace_bytes,
            progress=request.progress,
        )
        record = _record(package, built, graph)
        record = record.with_parity(_gate(package, built.plan, record))
        added.append(package.add_engine(name, built.plan, record, force=request.force))
    return added


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
    try:
        reference = load_reference(package)
        outputs = run_all(backend, reference.images)
    finally:
        backend.close()
    name = f"{record.flavour} {record.precision} engine"
    return gate(reference, name, *outputs, precision=record.precision).to_json()
