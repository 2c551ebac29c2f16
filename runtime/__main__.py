"""python -m runtime explain | compare | report | diff | info | doctor | verify

Exit codes: 0 done, 1 error, 2 wrong usage, 3 the parity gate failed, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from runtime import doctor
from runtime.atomic import refuse_existing
from runtime.backends import NAMES, choose
from runtime.comparison import ComparisonPaths
from runtime.diff import LEAST_COSINE, LEAST_RECALL, compare_packages
from runtime.errors import BackendError, InputError, NemuError, ParityError
from runtime.explain import MASKS, Outcome, explain_pictures, write_parquet
from runtime.explainer import Explainer
from runtime.journal import LINES, ROWS
from runtime.package import Package
from runtime.parity import LIMITS
from runtime.report import LOW_FIDELITY, write_report
from runtime.sources import find_pictures
from runtime.verify import verify
from runtime.video import explain_video, is_video, video_name


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
    videos = [source for source in arguments.sources if is_video(source)]
    others = [source for source in arguments.sources if not is_video(source)]
    pictures = find_pictures(others) if others else []
    common = {"fidelity": arguments.fidelity, "force": arguments.force, "quiet": arguments.quiet}
    with _explainer(arguments) as explainer:
        outcome = Outcome([], 0, [])
        if pictures:
            outcome = explain_pictures(
                explainer,
                pictures,
                arguments.out,
                masks=arguments.masks,
                overlays=not arguments.no_overlays,
                **common,
            )
        frames = {
            video_name(video): explain_video(explainer, video, arguments.out, most=arguments.frames, **common)
            for video in videos
        }
        facts = {
            "embedding_id": explainer.embedding_id,
            "backend": explainer.backend.name,
            "why": explainer.backend.why,
        }
    for one in outcome.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    if pictures and len(outcome.skipped) == len(pictures):
        raise InputError(
            f"none of {len(pictures)} pictures could be read",
            expected="at least one",
            cure="check the files listed above",
        )
    if pictures and arguments.embeddings == "parquet":
        write_parquet(arguments.out)
    lines = (
        [
            f"{len(outcome.written)} explained, {outcome.known} known already, {len(outcome.skipped)} skipped"
            f"; {facts['backend']}: {facts['why']}"
        ]
        if pictures
        else []
    )
    lines += [f"{name}: {count} frames" for name, count in frames.items()]
    lines.append(f"next: look into {arguments.out}; {LINES} has a line for each, {ROWS} the embeddings")
    _answer(arguments, {**facts, **outcome._asdict(), "frames": frames}, "\n".join(lines))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    name = f"{arguments.a.stem}-{arguments.b.stem}"
    for path in ComparisonPaths.of(arguments.out, name):
        refuse_existing(path, force=arguments.force)
    with _explainer(arguments) as explainer:
        comparison = explainer.compare(arguments.a, arguments.b)
        paths = comparison.save(arguments.out, name, force=arguments.force)
    pairs = ((arguments.a, comparison.a), (arguments.b, comparison.b))
    lines = [
        f"{image}: fidelity {one.fidelity:.3f}"
        + (f", but its mask is {one.degenerate}: it shows nothing" if one.degenerate else "")
        for image, one in pairs
    ]
    lines += [
        f"similarity {comparison.similarity:.3f}; of what the masks keep {comparison.kept_similarity:.3f}",
        f"next: look at {paths.picture}; the numbers are in {paths.record.name}",
    ]
    files = {kind: str(path) for kind, path in paths._asdict().items()}
    _answer(arguments, {**files, **comparison.to_json()}, "\n".join(lines))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out, force=arguments.force)
    images = [picture.image for picture in find_pictures(arguments.sources)]
    with _explainer(arguments) as explainer:
        report = write_report(
            explainer,
            Package.open(arguments.package),
            images,
            arguments.out,
            low_fidelity=arguments.low_fidelity,
            force=arguments.force,
        )
    for one in report.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    lines = [f"flagged {name}" for name in report.flagged]
    lines += [
        f"{report.written} explained, {len(report.flagged)} flagged, {len(report.skipped)} skipped",
        f"next: open {report.path} in a browser; it needs no network",
    ]
    _answer(arguments, {**report._asdict(), "path": str(report.path)}, "\n".join(lines))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    images = [picture.image for picture in find_pictures(arguments.images)]
    options = {"backend": arguments.backend, "device": arguments.device}
    with (
        Explainer(arguments.old, **options, precision=arguments.precision) as old,
        Explainer(arguments.new, **options, precision=arguments.new_precision) as new,
    ):
        found = compare_packages(old, new, images)
    lines = [f"{'old':9}{found.old_id}", f"{'new':9}{found.new_id}"]
    if found.least_cosine is not None:
        lines += [
            f"{'cosine':9}least {found.least_cosine:.4f}, median {found.median_cosine:.4f}",
            f"{'recall':9}{found.recall:.3f} ± {found.recall_spread:.3f} of the {found.k} nearest",
        ]
    lines += [
        f"{'masks':9}IoU {found.mask_iou:.3f}, mean difference {found.mask_difference:.3f}",
        f"{found.n} pictures: "
        + ("the two may share an index" if found.may_share_index else "; ".join(found.objections())),
    ]
    lines += [] if found.may_share_index else ["next: embed the old index anew with the new package"]
    _answer(arguments, found.to_json(), "\n".join(lines))
    return 0 if found.may_share_index else ParityError.exit_code


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


def _explainer(arguments: argparse.Namespace) -> Explainer:
    return Explainer(
        arguments.package, backend=arguments.backend, device=arguments.device, precision=arguments.precision
    )


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
        "Explain pictures and videos: NAME.overlay.png and NAME.mask.npy for each picture, NAME.overlay.mp4 "
        "for a video, a line each in explanations.jsonl, a row each in embeddings.npy. A picture that cannot "
        "be read is skipped and listed. Stopped, the same command goes on; what is done is not done again.",
        "explain demo.nemu photos/ --out explained",
    )
    _package_argument(sub)
    _sources_argument(sub, "files, folders, patterns, videos, numbers of cameras, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument(
        "--masks", choices=MASKS, default="npy", help="float32, 16-bit grey, or none (%(default)s)"
    )
    sub.add_argument("--no-overlays", action="store_true", help="write no overlays of pictures")
    sub.add_argument(
        "--embeddings", choices=("npy", "parquet"), default="npy", help="parquet: embeddings.parquet as well"
    )
    sub.add_argument(
        "--fidelity", action="store_true", help="also embed what each mask keeps, and say how near it is"
    )
    sub.add_argument("--frames", type=int, metavar="N", help="end a video or camera after N frames")
    sub.add_argument("--force", action="store_true", help="start anew: replace what an earlier run wrote")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    _backend_arguments(sub)

    sub = command(
        "compare",
        _compare,
        "Why do two pictures match? Two overlays side by side, the cosine of their embeddings, and the same "
        "when only what the masks keep survives: A-B.compare.png and A-B.compare.json.",
        "compare demo.nemu query.jpg match.jpg --out compared",
    )
    _package_argument(sub)
    sub.add_argument("a", type=Path, metavar="A", help="a picture")
    sub.add_argument("b", type=Path, metavar="B", help="another")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument("--force", action="store_true", help="replace files of an earlier run")
    _backend_arguments(sub)

    sub = command(
        "report",
        _report,
        "One HTML file with every picture and its overlay: sortable by similarity, mask area and fidelity; "
        "masks that show nothing and low fidelity are flagged. A picture that cannot be read is skipped.",
        "report demo.nemu parts/ --out report.html",
    )
    _package_argument(sub)
    _sources_argument(sub, "files, folders, patterns, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    sub.add_argument(
        "--low-fidelity",
        type=float,
        default=LOW_FIDELITY,
        metavar="COSINE",
        help="flag what is below it, default: %(default)s",
    )
    sub.add_argument("--force", action="store_true", help="replace the page of an earlier run")
    _backend_arguments(sub)

    sub = command(
        "diff",
        _diff,
        "May two packages share an index? Cosine, recall of neighbours and agreement of the masks on the "
        f"same pictures. Yes if every cosine is at least {LEAST_COSINE} and recall {LEAST_RECALL}; if not, "
        "exit code 3.",
        "diff old.nemu new.nemu --images golden/",
    )
    sub.add_argument("old", type=Path, metavar="OLD", help="folder NAME.nemu that the index was made with")
    sub.add_argument("new", type=Path, metavar="NEW", help="folder NAME.nemu that is to take its place")
    sub.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE|FOLDER")
    _backend_arguments(sub)
    sub.add_argument("--new-precision", choices=tuple(LIMITS), help="of NEW; --precision is of OLD")

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


def _sources_argument(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=text)


def _backend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU, default: %(default)s")
    parser.add_argument(
        "--precision", choices=tuple(LIMITS), help="default: fp32 on the CPU, the best engine on a GPU"
    )


if __name__ == "__main__":
    sys.exit(main())
