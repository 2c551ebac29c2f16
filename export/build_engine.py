"""nemu build (python -m export.build_engine): make a package, or add engines to one.

A new package is made in two steps: `export.package.pack.make_package` writes graphs, reference and card;
`export.package.attach.build` compiles engines from these graphs.  An existing package gets the second step
only.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from export.package import attach
from export.request import Request, engine_request, package_source, parse, parser
from runtime.atomic import atomic_folder, refuse_existing
from runtime.backends.choice import takes_targets
from runtime.cli import console
from runtime.package.folder import MANIFEST, Engine, Package
from runtime.package.reasons import not_run, sentence

__all__ = ["main", "parser"]


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = parse(argv)
    return console.exit_code(lambda: _run(options), stopped="nothing was written")


def _run(options: argparse.Namespace) -> int:
    request = engine_request(options)
    request.check()
    if options.package:
        package, built = add_engines(options, request)
    else:
        package, built = make(options, request)
    console.answer(options, _facts(package, built), "\n".join(_report(package, request, built)))
    for line in (
        *built.notes,
        *(f"no engine of {job}: {sentence(why)}" for job, why in built.left_out.items()),
    ):
        print(f"warning: {line}", file=sys.stderr)
    if built.failure is not None:
        raise built.failure
    return 0


def make(options: argparse.Namespace, request: Request) -> tuple[Package, attach.Built]:
    """Make a new package, whole or not at all."""
    refuse_existing(options.out, force=options.force and (options.out / MANIFEST).is_file())
    from export.package import pack  # imports torch

    with atomic_folder(options.out, force=options.force) as folder:
        step = nullcontext if options.quiet else _step
        package = pack.make_package(folder, package_source(options), name=options.out.name, step=step)
        built = attach.build(package, *_forms(request, package))
        if built.left_out:  # the card names them
            manifest = dataclasses.replace(package.manifest, left_out=built.left_out)
            package = pack.seal(folder, manifest, options.out.name)
        attach.write(package, built, force=request.force)
    return Package.open(options.out), built


def add_engines(options: argparse.Namespace, request: Request) -> tuple[Package, attach.Built]:
    """Add engines to an existing package."""
    if not options.target and not options.quiet:
        for target in request.targets:
            print(f"target {target.name}: {target.what}", file=sys.stderr)
    package = Package.open(options.package)
    built = attach.build(package, request)
    attach.write(package, built, force=request.force)
    return package, built


def _forms(request: Request, package: Package) -> list[Request]:
    """The engines of a new package: plain ones, and ones for targets if its masker takes targets."""
    if request.precision in package.manifest.refused:
        request = dataclasses.replace(request, precision="auto")
    return [request, *([request.for_targets(package)] if takes_targets(package) else [])]


def _facts(package: Package, built: attach.Built) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "package": str(package.path),
        "hash": package.hash,
        "embedding_id": package.manifest.embedding_id,
        "parity": package.manifest.fields()["parity"],
        "engines": {engine.path.name: engine.record.fields() for engine in package.engines()},
        "refused": package.manifest.refused,
        "left_out": built.left_out,
        "notes": built.notes,
    }


def _report(package: Package, request: Request, built: attach.Built) -> Iterator[str]:
    """The answer for people, line by line."""
    for name, figures in package.manifest.parity.items():
        yield f"parity {name}: {_figures(figures.fields())}"
    for precision, reason in package.manifest.refused.items():
        yield f"{precision} is not in the package: {sentence(reason)}"
    for engine in package.engines():
        yield from _engine_lines(engine)
    for target in request.targets:
        if target.tensorrt and not target.engines:
            yield f"{target.name}: the graph breaks no known rule; build its engine on the device:"
            for options in built.checked[target.name]:
                yield f"  nemu build --package {package.path} {options}"
    yield f"{package.path}: {package.manifest.embedding_id}"
    following = "bench {}" if request.embedding_only else "explain {} PHOTO… --out explained/"
    following = "verify {}" if request.toward else following
    yield f"next: nemu {following.format(package.path)}"


def _engine_lines(engine: Engine) -> Iterator[str]:
    r = engine.record
    kind = r.precision + ", embedding only" * r.embedding_only + ", takes a target" * r.takes_target
    yield f"{engine.path.name}: {r.flavour} {r.version}, {kind}, {r.tensor_types}"
    why = r.parity.not_run
    yield f"  parity: {f'not run here: {not_run(why)}' if why else _figures(r.parity.fields())}"


def _figures(figures: dict[str, Any]) -> str:
    said = f"embedding error {float(figures['embedding_error']):.1e}"
    if "centred_cosine" in figures:  # packages of older versions have none
        said += f", centred cosine {figures['centred_cosine']:.4f}, neighbours {figures['neighbours']:.0%}"
    if "mask_error" not in figures:
        return said
    return f"{said}, mask error {float(figures['mask_error']):.1e}, IoU {figures['mask_iou']:.4f}"


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    finally:
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
