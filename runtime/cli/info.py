"""Describe a package, and the backend that would run it here."""

from __future__ import annotations

from typing import Any

from runtime.backends.choice import choose, takes_targets
from runtime.errors import BackendError
from runtime.package.folder import Package
from runtime.package.manifest import Manifest
from runtime.package.reasons import images_used, meaning, sentence


def describe(package: Package) -> tuple[dict[str, Any], str]:
    """The facts as plain values, and as text."""
    manifest, engines, runs = package.manifest, package.engines(), _runs(package)
    facts = {
        "path": str(package.path),
        "hash": package.hash,
        "runs_on": runs,
        "takes_target": takes_targets(package),
        "manifest": manifest.fields(),
        "engines": [{"path": str(e.path), "needs": e.record.needs(), **e.record.fields()} for e in engines],
    }
    size = manifest.input
    lines = [
        f"{package.path}, written {manifest.created} by nemu {manifest.nemu}",
        f"embedding  {manifest.embedding_id}: {manifest.encoder.dimension} numbers, "
        f"{manifest.encoder.embedding} of {manifest.encoder.id} (licence {manifest.encoder.license})",
        f"masker     {manifest.masker.architecture}, objective {manifest.masker.objective}",
        f"target     {_target(package)}",
        f"data       {_data(manifest)}",
        f"metrics    {_metrics(manifest)}",
        f"input      {size.height}x{size.width} {size.channel_order}, {size.resize}, {size.interpolation}",
        *(f"output     {o.name} {o.shape}: {meaning(o.meaning)}" for o in manifest.outputs),
        *(f"parity     {name}: {figures(numbers.fields())}" for name, numbers in manifest.parity.items()),
        *(
            f"left out   {what}: {sentence(why)}"
            for what, why in (*manifest.refused.items(), *manifest.left_out.items())
        ),
        *(
            f"engine     {e.path.name}: {e.record.precision}, batch {':'.join(map(str, e.record.batch))}, "
            + "embedding only, " * e.record.embedding_only
            + "takes a target, " * e.record.takes_target
            + f"needs {e.record.needs()}"
            for e in engines
        ),
        f"runs on    {runs}",
        f"files      all {len(manifest.files)} are unchanged",
        f"next: nemu verify {package.path}",
    ]
    return facts, "\n".join(lines)


def figures(parity: dict[str, Any]) -> str:
    """The numbers of a parity record as text; --json prints all fields."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in parity.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _runs(package: Package) -> str:
    try:
        backend = choose(package)
    except BackendError as error:
        return f"nothing here can run it: {error.came}; {error.cure}"
    backend.close()
    return f"{backend.name}: {backend.why}" + (f" ({backend.degraded})" if backend.degraded else "")


def _data(manifest: Manifest) -> str:
    """The masker's training data in one line."""
    folder, run = manifest.masker.config.get("data", "not known"), manifest.training
    if run is None:
        return f"{folder}; how many images is not known: the package was built without the summary of its run"
    return f"{folder}: {run.images} images, {run.skipped} skipped; {run.steps} steps"


def _target(package: Package) -> str:
    """Whether the package takes targets, and how far its masks follow them, in one line."""
    if not takes_targets(package):
        return "takes none: images are explained by themselves"
    record = package.manifest.target
    if record is None:
        return "takes one (toward); how good such masks are was not measured"
    found = record.measured
    return (
        f"takes one (toward); of a mask, {found.shown} lies where the target is, {found.around} if another "
        f"is asked for; n {record.n}: {images_used(record.images)}"
    )


def _metrics(manifest: Manifest) -> str:
    """The quality of the masks, measured at the build, in one line."""
    k = manifest.metrics
    if k is None:
        return "none were measured"
    return (
        f"fidelity {k.fidelity} (moved masks {k.fidelity_moved}, nothing kept {k.fidelity_empty}), "
        f"area {k.area}, {k.degenerate} degenerate; n {k.n}: {images_used(k.images)}"
    )
