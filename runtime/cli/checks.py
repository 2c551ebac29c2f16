"""The commands assess, diff, bench, info, verify and doctor: print an answer, return the exit code."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from runtime import assess as assessment
from runtime.atomic import refuse_existing
from runtime.backends.base import Backend, EmbeddingBackend, TargetBackend
from runtime.backends.choice import choose, embedding_only_backend, takes_targets, toward_backend
from runtime.cli import bench as speed
from runtime.cli import doctor as machine
from runtime.cli.console import answer, open_explainer, print_skipped
from runtime.errors import BackendError, EngineMismatch
from runtime.explainer import Explainer
from runtime.index.diff import compare_packages
from runtime.media.encode import save_png
from runtime.media.geometry import Geometry, decoded
from runtime.media.sources import find_named_images
from runtime.package.folder import Package
from runtime.package.manifest import Manifest
from runtime.package.reasons import images_used, meaning, sentence
from runtime.package.reference import load_reference
from runtime.verify import run_all, run_all_toward, verify_embedding, verify_toward
from runtime.verify import verify as verify_package


def assess(arguments: argparse.Namespace) -> int:
    """Measure whether the masks can be trusted on your images.

    Mixes them in pairs by known regions and measures whether the masks lie where the embedding comes from,
    and follow a target if the package takes targets. Exit code 3 if they do not.
    """
    package = Package.open(arguments.package)
    if arguments.out:
        refuse_existing(arguments.out, force=arguments.force)
    files = [found.image for found in find_named_images(arguments.images)]
    taken = files[:: -(-len(files) // assessment.MOST)]
    images, unreadable = decoded(taken, Geometry.from_record(package.manifest.input))
    print_skipped([{"image": str(file), "error": "it cannot be read"} for file in unreadable])
    backend = choose(package, arguments.backend, arguments.device, arguments.precision)
    with closing(backend), _for_targets(package, backend, arguments.device) as (asks, unasked):
        ask = None if asks is None else partial(run_all_toward, asks)
        found, mixed = assessment.assess(partial(run_all, backend), ask, images)
    if arguments.out:
        save_png(arguments.out, assessment.draw(mixed), force=arguments.force)
    lines = [assessment.table(found), found.verdict()]
    lines += [f"masks toward targets were not assessed: {unasked}"] if unasked else []
    if len(files) > len(taken):
        lines.insert(0, f"{len(taken)} of {len(files)} images, evenly spread")
    if arguments.out:
        columns = ", ".join(("the region", *mixed.masks))
        lines.append(f"next: look at {arguments.out}: each mixture, then {columns}")
    facts = {"unreadable": [str(file) for file in unreadable], "of": len(files), "not_asked": unasked}
    return answer(arguments, {**found.to_json(), **facts}, "\n".join(lines), passed=found.believed)


def diff(arguments: argparse.Namespace) -> int:
    """Check whether two packages may share an index.

    Cosine, recall of neighbours and agreement of the masks on the same images. Yes if every cosine is at
    least 0.99 and recall 0.95; if not, exit code 3.
    """
    images = [found.image for found in find_named_images(arguments.images)]
    options = {"backend": arguments.backend, "device": arguments.device}
    with (
        Explainer(arguments.old, **options, precision=arguments.precision) as old,
        Explainer(arguments.new, **options, precision=arguments.new_precision) as new,
    ):
        found = compare_packages(old, new, images, quiet=arguments.quiet)
    lines = [
        f"{'old':9}{found.old_id}",
        f"{'new':9}{found.new_id}",
        *found.lines(),
        f"{found.n} images: "
        + ("the two may share an index" if found.may_share_index else "; ".join(found.objections())),
        "next: "
        + ("use the new package; the index stays" if found.may_share_index else "index the images again"),
    ]
    return answer(arguments, found.to_json(), "\n".join(lines), passed=found.may_share_index)


def bench(arguments: argparse.Namespace) -> int:
    """Measure how fast the package is on this device: each batch size, and a whole call from a JPEG.

    Also reports the clocks and the power mode, on which the times depend.
    """
    found, package = speed.conditions(), Package.open(arguments.package)
    with (
        open_explainer(arguments, package) as explainer,
        _embedding_only(package, explainer.backend, arguments.device) as alone,
        _for_targets(package, explainer.backend, arguments.device) as (asks, untimed),
    ):
        rows = speed.bench(explainer, alone, asks, seconds=arguments.seconds)
        backend = explainer.backend
    said = f"{arguments.package}, {backend.precision}, on {backend.name}: {backend.why}"
    said += f"\ndegraded: {backend.degraded}" if backend.degraded else ""
    said += f"\nthe graph with targets was not run: {untimed}" if untimed else ""
    facts = {"backend": backend.name, "why": backend.why, "precision": backend.precision}
    return answer(
        arguments,
        {**facts, "degraded": backend.degraded, **speed.to_json(rows, found)},
        f"{said}\n{speed.table(rows, found)}\n{_explain_next(arguments.package)}",
    )


def info(arguments: argparse.Namespace) -> int:
    """Say what a package is and what would run it."""
    facts, text = describe(Package.open(arguments.package))
    return answer(arguments, facts, text)


def verify(arguments: argparse.Namespace) -> int:
    """Check every file's hash, then the reference outputs on the backend that runs here.

    Exit code 3 if they are too far off.
    """
    package = Package.open(arguments.package)
    engines = package.engines()
    for engine in engines:
        engine.read()  # checks its hash
    files = len(package.manifest.files) + 2 * len(engines)
    backend = choose(package, arguments.backend, arguments.device, arguments.precision)
    with closing(backend):
        parity = verify_package(package, backend).to_json()
    with _embedding_only(package, backend, arguments.device) as alone:
        embedding = None if alone is None else verify_embedding(package, alone).embedding_to_json()
    with _for_targets(package, backend, arguments.device) as (asks, unverified):
        toward = None if asks is None else verify_toward(package, asks).to_json()
    if toward:
        toward["target_effect"] = load_reference(package).target_effect()
    facts = {"backend": backend.name, "why": backend.why, "precision": backend.precision}
    lines = [
        f"{files} files are unchanged",
        f"{backend.name} ({backend.precision}; {backend.why}) gives the reference outputs:",
        f"  {figures(parity)}",
    ]
    lines += [f"the embedding alone:\n  {figures(embedding)}"] if embedding else []
    lines += [f"toward the reference targets:\n  {figures(toward)}"] if toward else []
    lines += [f"the graph with targets was not run: {unverified}"] if unverified else []
    lines.append(_explain_next(package.path))
    found = {"parity": parity, "embedding_only": embedding, "toward": toward, "toward_not_run": unverified}
    return answer(arguments, {**facts, "files": files, **found}, "\n".join(lines))


def doctor(arguments: argparse.Namespace) -> int:
    """Say what is installed, what is missing, how to get it, and what to do next."""
    facts = machine.report(Package.open(arguments.package) if arguments.package else None)
    return answer(arguments, facts, machine.text(facts))


def _embedding_only(
    package: Package, beside: Backend, device: int
) -> AbstractContextManager[EmbeddingBackend | None]:
    """A backend on the same library that computes no mask; None if the package has none."""
    backend = embedding_only_backend(package, beside, device)
    return nullcontext() if backend is None else closing(backend)


@contextmanager
def _for_targets(
    package: Package, beside: Backend, device: int
) -> Iterator[tuple[TargetBackend | None, str]]:
    """A backend on the same library that takes targets; or None, and why, if the package takes targets."""
    if not takes_targets(package):
        yield None, ""
        return
    try:
        backend = toward_backend(package, beside, device)
    except EngineMismatch as error:
        yield None, f"{error.came}; {error.cure}"
        return
    with closing(backend):
        yield backend, ""


def _explain_next(package: Path) -> str:
    return f"next: nemu explain {package} PHOTO… --out explained"


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
