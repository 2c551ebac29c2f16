"""python -m runtime explain | info | doctor | verify

Exit codes: 0 done, 1 error, 2 wrong usage, 3 the parity gate failed, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from runtime import doctor, explain
from runtime.backends import NAMES, choose
from runtime.errors import BackendError, InputError, NemuError
from runtime.explainer import Explainer
from runtime.package import Package
from runtime.parity import LIMITS
from runtime.verify import verify


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except NemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}\n  nothing half-written was left behind", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was finished stays, nothing half-written was left behind", file=sys.stderr)
        return 130


def _explain(arguments: argparse.Namespace) -> int:
    jobs = explain.plan(arguments.images, arguments.out)
    explain.refuse_written(jobs, force=arguments.force)
    with Explainer(
        arguments.package, backend=arguments.backend, device=arguments.device, precision=arguments.precision
    ) as explainer:
        outcome = explain.run(explainer, jobs, force=arguments.force)
        facts = {
            "embedding_id": explainer.embedding_id,
            "backend": explainer.backend.name,
            "why": explainer.backend.why,
        }
    for one in outcome.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    if not outcome.written:
        raise InputError(
            f"none of {len(jobs)} pictures could be read",
            expected="at least one",
            cure="check the files listed above",
        )
    written, skipped = len(outcome.written), len(outcome.skipped)
    done = f"{written} explained, {skipped} skipped; {facts['backend']}: {facts['why']}"
    _answer(
        arguments,
        {**facts, **outcome._asdict()},
        f"{done}\n"
        f"next: look at {outcome.written[0]['overlay']}; masks are in *.mask.npy, embeddings in *.json",
    )
    return 0


def _info(arguments: argparse.Namespace) -> int:
    package = Package.open(arguments.package)
    manifest, engines = package.manifest, package.engines()
    try:
        backend = choose(package)
        runs = f"{backend.name}: {backend.why}" + (f" ({backend.degraded})" if backend.degraded else "")
        backend.close()
    except BackendError as error:
        runs = f"nothing here can run it: {error.came}; {error.cure}"
    facts = {
        "path": str(package.path),
        "hash": package.hash,
        "runs_on": runs,
        "manifest": dataclasses.asdict(manifest),
        "engines": [
            {"path": str(e.path), "needs": e.record.needs(), **dataclasses.asdict(e.record)} for e in engines
        ],
    }
    size = manifest.input
    lines = [
        f"{package.path}, written {manifest.created} by nemu {manifest.nemu}",
        f"embedding  {manifest.embedding_id}: {manifest.encoder.dimension} numbers, "
        f"{manifest.encoder.embedding} of {manifest.encoder.id} (licence {manifest.encoder.license})",
        f"masker     {manifest.masker.architecture}, objective {manifest.masker.objective}",
        f"input      {size.height}x{size.width} {size.channel_order}, {size.resize}, {size.interpolation}",
        *(f"output     {o.name} {o.shape}: {o.meaning}" for o in manifest.outputs),
        *(f"parity     {name}: {_figures(figures)}" for name, figures in manifest.parity.items()),
        *(
            f"engine     {e.path.name}: {e.record.precision}, batch {':'.join(map(str, e.record.batch))}, "
            f"needs {e.record.needs()}"
            for e in engines
        ),
        f"runs on    {runs}",
        f"files      all {len(manifest.files)} are as they were written",
    ]
    _answer(arguments, facts, "\n".join(lines))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    package = Package.open(arguments.package)
    engines = package.engines()
    for engine in engines:
        engine.read()  # checks its hash
    files = len(package.manifest.files) + 2 * len(engines)
    backend = choose(package, arguments.backend, arguments.device, arguments.precision)
    try:
        parity = verify(package, backend)
    finally:
        backend.close()
    facts = {"backend": backend.name, "why": backend.why, "precision": backend.precision}
    _answer(
        arguments,
        {**facts, "files": files, "parity": parity.to_json()},
        f"{files} files are as they were written\n"
        f"{backend.name} ({backend.precision}; {backend.why}) gives the reference outputs:\n"
        f"  {_figures(parity.to_json())}",
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    facts = doctor.report(Package.open(arguments.package) if arguments.package else None)
    _answer(arguments, facts, doctor.text(facts))
    return 0


def _answer(arguments: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    print(json.dumps(facts, indent=2) if arguments.json else text)


def _figures(figures: dict[str, Any]) -> str:
    """The numbers among them, for people; --json prints all."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in figures.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _parser() -> argparse.ArgumentParser:
    prog = "nemu" if Path(sys.argv[0]).stem == "nemu" else "python -m runtime"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.partition("\n\n")[2].strip())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=f"example: {prog} {example}")
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    sub = command(
        "explain",
        _explain,
        "Explain pictures: NAME.overlay.png, NAME.mask.npy and NAME.json for each. A picture that cannot be "
        "read is skipped and listed; the exit code is 1 only if none could be read.",
        "explain demo.nemu photos/ --out explained",
    )
    _package_argument(sub)
    sub.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="folders are searched")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument("--force", action="store_true", help="replace files of an earlier run")
    _backend_arguments(sub)

    sub = command("info", _info, "What a package is and what would run it here.", "info demo.nemu")
    _package_argument(sub)

    sub = command(
        "doctor", _doctor, "What is installed, what is missing, how to get it, what to do next.", "doctor"
    )
    sub.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="to estimate the memory that it needs"
    )

    sub = command(
        "verify",
        _verify,
        "Check every file's hash, then the reference outputs on the backend at hand; exit code 3 if they are "
        "too far off.",
        "verify demo.nemu --backend onnxruntime",
    )
    _package_argument(sub)
    _backend_arguments(sub)
    return parser


def _package_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="folder NAME.nemu")


def _backend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU, default: %(default)s")
    parser.add_argument(
        "--precision", choices=tuple(LIMITS), help="default: fp32 on the CPU, the best engine on a GPU"
    )


if __name__ == "__main__":
    sys.exit(main())
