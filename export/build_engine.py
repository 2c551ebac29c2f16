"""python -m export.build_engine: a masker and its encoder, fused into one package; engines for devices.

Two uses:
  --masker … --out x.nemu     makes a package: ONNX graphs, reference, model card, and engines (needs torch)
  --package x.nemu            adds the engines this machine can build, from the package's own ONNX (no torch);
                              --embedding-only: engines that give no mask, for indexing in bulk
                              --toward: engines that take a target for each image
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export import attach, targets
from runtime import console
from runtime.atomic import atomic_folder, refuse_existing
from runtime.backends import takes_targets
from runtime.errors import InputError
from runtime.package import GRAPHS, MANIFEST, Package

EXAMPLE = f"""targets:
{chr(10).join(f"  {t.name:13}{t.what}" for t in targets.TARGETS.values())}

examples:
  python -m export.build_engine --masker runs/x/masker.safetensors --target rtx --target jetpack6 --out x.nemu
  python -m export.build_engine --package x.nemu                           # on the device
  python -m export.build_engine --package x.nemu --batch 1:32:32 --embedding-only
  python -m export.build_engine --package x.nemu --target jetpack6         # check the graph, build nothing

exit codes: 0 ok (warnings name what was left out), 1 error, 2 usage, 3 refused by the parity gate
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m export.build_engine",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--masker", type=Path, help="masker.safetensors from python -m train")
    source.add_argument("--package", type=Path, help="an existing package, to add engines to")
    p.add_argument("--out", type=Path, help="the package to make, NAME.nemu (with --masker)")
    p.add_argument("--weights", help="where the encoder's weights are now (with --masker)")
    p.add_argument(
        "--reference", type=Path, help="folder of photographs to check with and to ship (with --masker)"
    )
    p.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="photographs that int8 takes its ranges from, and that fp16 must hold the range of (with "
        "--masker; default: the reference images)",
    )
    p.add_argument(
        "--evaluate",
        type=Path,
        metavar="FOLDER",
        help="photographs that the model card's metrics are measured on, best such as training did not see; "
        "they are not shipped (with --masker; default: the reference images)",
    )
    p.add_argument("--no-simplify", action="store_true", help="do not run onnxsim (with --masker)")
    p.add_argument(
        "--precision",
        choices=("auto", *GRAPHS),
        default="auto",
        help="inside the engine; auto (default): for each engine fp16 where its range and the gate allow, "
        "else bf16, else fp32, of what the package holds; it says why",
    )
    p.add_argument("--batch", default="1:1:8", metavar="MIN:OPT:MAX", help="of the engine (%(default)s)")
    p.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="see below; repeatable; default: onnx with --masker, what is installed here with --package",
    )
    p.add_argument(
        "--embedding-only",
        action="store_true",
        help="engines without the mask and all that only the mask needs (with --package)",
    )
    p.add_argument(
        "--toward",
        action="store_true",
        help="engines that take a target, for explainer(image, toward=…), beside plain ones of the same "
        "precision (with --package; a new package whose masker takes targets gets both forms)",
    )
    p.add_argument("--workspace", type=int, metavar="MIB", help="limit of the builder's scratch memory")
    p.add_argument("--force", action="store_true", help="replace a package or engine that is already there")
    console.add_arguments(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    p = parser()
    options = p.parse_args(argv)
    if options.masker and not options.out:
        p.error("--masker needs --out NAME.nemu")
    makes = ("out", "weights", "reference", "calibration", "evaluate")
    if options.package and any(getattr(options, name) for name in makes):
        p.error(", ".join(f"--{name}" for name in makes) + " go with --masker")
    if options.masker and options.embedding_only:
        p.error("--embedding-only goes with --package: it adds engines to those that explain")
    if options.masker and options.toward:
        p.error("--toward goes with --package: a new package whose masker takes targets gets both forms")
    if options.toward and options.embedding_only:
        p.error("--toward and --embedding-only are two forms: build one, then the other")
    if options.calibration and options.precision in ("fp32", "bf16"):
        p.error("--calibration goes with --precision auto, fp16 or int8")
    return console.exit_code(lambda: _run(options), stopped="nothing was written")


def _run(options: argparse.Namespace) -> int:
    request = attach.Request(
        targets=_targets(options),
        precision=options.precision,
        batch=_batch(options.batch),
        workspace_bytes=None if options.workspace is None else options.workspace << 20,
        embedding_only=options.embedding_only,
        toward=options.toward,
        progress=not options.quiet,
        force=options.force,
    )
    request.check()
    package, built = _add(options, request) if options.package else _make(options, request)
    facts = {
        "package": str(package.path),
        "hash": package.hash,
        "embedding_id": package.manifest.embedding_id,
        "parity": package.manifest.fields()["parity"],
        "engines": {engine.path.name: engine.record.fields() for engine in package.engines()},
        "refused": package.manifest.refused,
        "left_out": built.left_out,
        "notes": built.notes,
    }
    console.answer(options, facts, "\n".join(_report(package, request, built)))
    for line in (*built.notes, *(f"no engine of {job}: {why}" for job, why in built.left_out.items())):
        print(f"warning: {line}", file=sys.stderr)
    if built.failure is not None:
        raise built.failure
    return 0


def _report(package: Package, request: attach.Request, built: attach.Built) -> Iterator[str]:
    for name, figures in package.manifest.parity.items():
        yield f"parity {name}: {_figures(figures.fields())}"
    for precision, reason in package.manifest.refused.items():
        yield f"{precision} is not in the package: {reason}"
    for engine in package.engines():
        r = engine.record
        kind = r.precision + ", embedding only" * r.embedding_only + ", takes a target" * r.takes_target
        yield f"{engine.path.name}: {r.flavour} {r.version}, {kind}, {r.tensor_types}"
        why = r.parity.not_run
        yield f"  parity: {f'not run: {why}' if why else _figures(r.parity.fields())}"
    for target in request.targets:
        if target.tensorrt and not target.engines:
            yield f"{target.name}: nothing known stands against the graph; build its engine on the device:"
            for options in built.checked[target.name]:
                yield f"  python -m export.build_engine --package {package.path} {options}"
    yield f"{package.path}: {package.manifest.embedding_id}"
    following = "bench {}" if request.embedding_only else "explain {} PHOTO… --out explained/"
    following = "verify {}" if request.toward else following
    yield f"next: python -m runtime {following.format(package.path)}"


def _figures(figures: dict[str, Any]) -> str:
    said = f"embedding error {float(figures['embedding_error']):.1e}"
    if "centred_cosine" in figures:  # packages of older versions have none
        said += f", centred cosine {figures['centred_cosine']:.4f}, neighbours {figures['neighbours']:.0%}"
    if "mask_error" not in figures:
        return said
    return f"{said}, mask error {float(figures['mask_error']):.1e}, IoU {figures['mask_iou']:.4f}"


def _targets(options: argparse.Namespace) -> tuple[targets.Target, ...]:
    """What was asked for; for a package, what this machine can build if nothing was."""
    if options.target or options.masker:
        return tuple(targets.find(name) for name in dict.fromkeys(options.target or ()))
    chosen = targets.default()
    if not options.quiet:
        print(f"target {chosen.name}: {chosen.what}", file=sys.stderr)
    return (chosen,)


def _make(options: argparse.Namespace, request: attach.Request) -> tuple[Package, attach.Built]:
    """A new package, whole or not at all."""
    refuse_existing(options.out, force=options.force and (options.out / MANIFEST).is_file())
    from export.pack import make_package, seal  # imports torch

    with atomic_folder(options.out, force=options.force) as folder:
        package = make_package(
            folder,
            name=options.out.name,
            masker=options.masker,
            weights=options.weights,
            reference=options.reference,
            calibration=options.calibration,
            evaluate=options.evaluate,
            precision=options.precision,
            simplify=not options.no_simplify,
            step=_silent if options.quiet else _step,
        )
        if request.precision in package.manifest.refused:
            request = dataclasses.replace(request, precision="auto")
        forms = [request, *([request.for_targets(package)] if takes_targets(package) else [])]
        built = attach.build(package, *forms)
        if built.left_out:  # the card names them
            manifest = dataclasses.replace(package.manifest, left_out=built.left_out)
            package = seal(folder, manifest, options.out.name)
        attach.write(package, built, force=request.force)
    return Package.open(options.out), built


def _add(options: argparse.Namespace, request: attach.Request) -> tuple[Package, attach.Built]:
    """Engines for an existing package."""
    package = Package.open(options.package)
    built = attach.build(package, request)
    attach.write(package, built, force=request.force)
    return package, built


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    finally:
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)


@contextmanager
def _silent(what: str) -> Iterator[None]:
    yield


def _batch(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) not in (1, 3):
        raise InputError(f"--batch {text}", expected="N, or MIN:OPT:MAX", cure="--batch 1:1:8")
    low, best, high = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    if not 1 <= low <= best <= high:
        raise InputError(f"--batch {text}", expected="1 <= MIN <= OPT <= MAX", cure="--batch 1:1:8")
    return low, best, high


if __name__ == "__main__":
    sys.exit(main())
