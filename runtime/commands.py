"""What each command does, once its arguments are read: returns the exit code, prints the answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.assess import MOST
from runtime.assess import assess as assess_masks
from runtime.assess import draw as assessment_picture
from runtime.assess import table as assessment_table
from runtime.atomic import atomic_file, refuse_existing
from runtime.backends import (
    Backend,
    EmbeddingBackend,
    TargetBackend,
    choose,
    takes_targets,
    toward_backend,
    without_mask,
)
from runtime.bench import bench as bench_package
from runtime.bench import conditions
from runtime.bench import table as bench_table
from runtime.bench import to_json as bench_json
from runtime.cluster import explain_with_ray
from runtime.comparison import ComparisonPaths
from runtime.console import answer
from runtime.diff import compare_packages
from runtime.doctor import report as doctor_report
from runtime.doctor import text as doctor_text
from runtime.encode import encode_png
from runtime.errors import EngineMismatch, InputError, ParityError
from runtime.explain import Outcome, explain_pictures, write_parquet
from runtime.explainer import Explainer
from runtime.image import Geometry, decoded
from runtime.info import describe, figures
from runtime.journal import LINES, ROWS
from runtime.level import curve_of, share_for
from runtime.overlay import STYLES
from runtime.package import Package
from runtime.report import write_report
from runtime.sources import NamedImage, find_named_images
from runtime.verify import load_reference, run_all, run_all_toward, verify_embedding, verify_toward
from runtime.verify import verify as verify_package
from runtime.video import explain_video, is_video, video_name


def explain(arguments: argparse.Namespace) -> int:
    """Pictures, videos and cameras → overlays, masks, embeddings, a journal."""
    videos = [source for source in arguments.sources if is_video(source)]
    others = [source for source in arguments.sources if not is_video(source)]
    drawn = [f"--{name}" for name in ("keep", "style") if getattr(arguments, name) is not None]
    if drawn and arguments.overlays == "none" and not videos:
        raise InputError(
            f"{' and '.join(drawn)} with --overlays none",
            expected="overlays to draw so",
            cure=f"leave out --overlays none, or {' and '.join(drawn)}",
        )
    pictures = find_named_images(others) if others else []
    lines = []
    with open_explainer(arguments) as explainer:
        common = {
            "toward": _target(arguments, explainer),
            "fidelity": arguments.fidelity,
            "force": arguments.force,
            "quiet": arguments.quiet,
            "draw": draw_options(arguments, explainer),
        }
        backend = explainer.backend
        facts = {"embedding_id": explainer.embedding_id, "backend": backend.name, "why": backend.why}
        outcome = Outcome([], 0, [])
        if pictures:
            outcome = _explain_pictures(arguments, explainer, pictures, common)
            done, known, skipped = len(outcome.written), outcome.known, len(outcome.skipped)
            lines.append(f"{done} explained, {known} known already, {skipped} skipped")
            if known:
                lines.append("those known keep their overlays and masks as they are; --force makes all anew")
        frames = {
            video_name(video): explain_video(explainer, video, arguments.out, most=arguments.frames, **common)
            for video in videos
        }
    lines += [f"{name}: {count} frames" for name, count in frames.items()]
    lines.append(f"on {facts['backend']}: {facts['why']}")
    seen = [f"{LINES} has a line for each, {ROWS} the embeddings"] if pictures else []
    seen += [f"play {name}.overlay.mp4; the same for its frames is in {name}/" for name in frames]
    lines.append(f"next: look into {arguments.out}; " + "; ".join(seen))
    answer(arguments, {**facts, **outcome._asdict(), "frames": frames}, "\n".join(lines))
    return 0


def _explain_pictures(
    arguments: argparse.Namespace, explainer: Explainer, pictures: list[NamedImage], common: dict[str, Any]
) -> Outcome:
    options = {"masks": arguments.masks, "overlays": arguments.overlays, **common}
    if arguments.ray is None:
        outcome = explain_pictures(explainer, pictures, arguments.out, **options)
    else:
        outcome = explain_with_ray(
            explainer, arguments.package, pictures, arguments.out, workers=arguments.ray, **options
        )
    for one in outcome.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    if len(outcome.skipped) == len(pictures):
        raise InputError(
            f"none of {len(pictures)} pictures could be read",
            expected="at least one",
            cure="check the files listed above",
        )
    if arguments.embeddings == "parquet":
        write_parquet(arguments.out)
    return outcome


def compare(arguments: argparse.Namespace) -> int:
    """Two pictures → their overlays, similarity, and what the masks keep of it."""
    name = f"{arguments.a.stem}-{arguments.b.stem}"
    for path in ComparisonPaths.of(arguments.out, name):
        refuse_existing(path, force=arguments.force)
    with open_explainer(arguments) as explainer:
        draw = draw_options(arguments, explainer)
        comparison = explainer.compare(arguments.a, arguments.b, toward=arguments.toward)
        paths = comparison.save(arguments.out, name, force=arguments.force, **draw)
    pairs = ((arguments.a, comparison.a), (arguments.b, comparison.b))
    lines = [
        f"{image}: fidelity {one.fidelity:.3f}"
        + (f", but its mask is {one.degenerate}: it shows nothing" if one.degenerate else "")
        + (", and it has nothing of the other" if one.absent else "")
        for image, one in pairs
    ]
    lines += [
        f"similarity {comparison.similarity:.3f}; of what the masks keep {comparison.kept_similarity:.3f}, "
        f"with the masks exchanged {comparison.exchanged_similarity:.3f}",
        f"next: look at {paths.image}; the numbers are in {paths.record.name}",
    ]
    files = {kind: str(path) for kind, path in paths._asdict().items()}
    answer(arguments, {**files, **comparison.to_json()}, "\n".join(lines))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """A folder → one HTML page."""
    refuse_existing(arguments.out, force=arguments.force)
    images = [picture.image for picture in find_named_images(arguments.sources)]
    package = Package.open(arguments.package)
    with open_explainer(arguments, package) as explainer:
        report = write_report(
            explainer,
            package,
            images,
            arguments.out,
            low_fidelity=arguments.low_fidelity,
            pairs=arguments.pairs,
            force=arguments.force,
            quiet=arguments.quiet,
            **draw_options(arguments, explainer),
        )
    for one in report.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    for one in report.failed_pairs:
        print(f"not compared: {one['a']} beside {one['b']}: {one['error']}", file=sys.stderr)
    if report.unpaired:
        print(f"pairs: {report.unpaired}", file=sys.stderr)
    lines = [f"flagged {name}" for name in report.flagged]
    lines += [
        f"{report.written} explained, {report.pairs} pairs compared, {len(report.flagged)} flagged, "
        f"{len(report.skipped)} skipped",
        f"next: open {report.path} in a browser; it needs no network",
    ]
    answer(arguments, {**report._asdict(), "path": str(report.path)}, "\n".join(lines))
    return 0


def assess(arguments: argparse.Namespace) -> int:
    """Pictures → whether the package's masks can be believed on them; 3 if not."""
    package = Package.open(arguments.package)
    if arguments.out:
        refuse_existing(arguments.out, force=arguments.force)
    files = [picture.image for picture in find_named_images(arguments.images)]
    taken = files[:: -(-len(files) // MOST)]
    images, unreadable = decoded(taken, Geometry.from_record(package.manifest.input))
    for file in unreadable:
        print(f"skipped {file}: it cannot be read", file=sys.stderr)
    backend = choose(package, arguments.backend, arguments.device, arguments.precision)
    with closing(backend), _for_targets(package, backend, arguments.device) as (asks, unasked):
        ask = None if asks is None else partial(run_all_toward, asks)
        found, mixed = assess_masks(partial(run_all, backend), ask, images)
    if arguments.out:
        with atomic_file(arguments.out, force=arguments.force) as file:
            file.write_bytes(encode_png(assessment_picture(mixed)))
    lines = [assessment_table(found), found.verdict()]
    lines += [f"masks toward targets were not assessed: {unasked}"] if unasked else []
    if len(files) > len(taken):
        lines.insert(0, f"{len(taken)} of {len(files)} pictures, spread over them")
    if arguments.out:
        columns = ", ".join(("the region", *mixed.masks))
        lines.append(f"next: look at {arguments.out}: each mixture, then {columns}")
    facts = {"unreadable": [str(file) for file in unreadable], "of": len(files), "not_asked": unasked}
    answer(arguments, {**found.to_json(), **facts}, "\n".join(lines))
    return 0 if found.believed else ParityError.exit_code


def diff(arguments: argparse.Namespace) -> int:
    """Two packages → whether they may share an index; 3 if not."""
    images = [picture.image for picture in find_named_images(arguments.images)]
    options = {"backend": arguments.backend, "device": arguments.device}
    with (
        Explainer(arguments.old, **options, precision=arguments.precision) as old,
        Explainer(arguments.new, **options, precision=arguments.new_precision) as new,
    ):
        found = compare_packages(old, new, images, quiet=arguments.quiet)
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
    lines.append(
        "next: put the new package into service; the index stays"
        if found.may_share_index
        else "next: embed the old index anew with the new package"
    )
    answer(arguments, found.to_json(), "\n".join(lines))
    return 0 if found.may_share_index else ParityError.exit_code


def bench(arguments: argparse.Namespace) -> int:
    """A package → its speed here."""
    found, package = conditions(), Package.open(arguments.package)
    with (
        open_explainer(arguments, package) as explainer,
        _without_mask(package, explainer.backend, arguments.device) as alone,
        _for_targets(package, explainer.backend, arguments.device) as (asks, untimed),
    ):
        rows = bench_package(explainer, alone, asks, seconds=arguments.seconds)
        backend = explainer.backend
    said = f"{arguments.package}, {backend.precision}, on {backend.name}: {backend.why}"
    said += f"\nslower than it could be: {backend.degraded}" if backend.degraded else ""
    said += f"\nwhat takes targets was not run: {untimed}" if untimed else ""
    facts = {"backend": backend.name, "why": backend.why, "precision": backend.precision}
    answer(
        arguments,
        {**facts, "degraded": backend.degraded, **bench_json(rows, found)},
        f"{said}\n{bench_table(rows, found)}\n{_explain_next(arguments.package)}",
    )
    return 0


def info(arguments: argparse.Namespace) -> int:
    """A package → what it is."""
    facts, text = describe(Package.open(arguments.package))
    answer(arguments, facts, text)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """A package → whether it is whole, and gives here what it should."""
    package = Package.open(arguments.package)
    engines = package.engines()
    for engine in engines:
        engine.read()  # checks its hash
    files = len(package.manifest.files) + 2 * len(engines)
    backend = choose(package, arguments.backend, arguments.device, arguments.precision)
    try:
        parity = verify_package(package, backend).to_json()
    finally:
        backend.close()
    with _without_mask(package, backend, arguments.device) as alone:
        embedding = None if alone is None else verify_embedding(package, alone).embedding_to_json()
    with _for_targets(package, backend, arguments.device) as (asks, unverified):
        toward = None if asks is None else verify_toward(package, asks).to_json()
    if toward:
        toward["target_effect"] = load_reference(package).target_effect()
    facts = {"backend": backend.name, "why": backend.why, "precision": backend.precision}
    lines = [
        f"{files} files are as they were written",
        f"{backend.name} ({backend.precision}; {backend.why}) gives the reference outputs:",
        f"  {figures(parity)}",
    ]
    lines += [f"the embedding alone:\n  {figures(embedding)}"] if embedding else []
    lines += [f"toward the reference targets:\n  {figures(toward)}"] if toward else []
    lines += [f"what takes targets was not run: {unverified}"] if unverified else []
    lines.append(_explain_next(package.path))
    found = {"parity": parity, "embedding_only": embedding, "toward": toward, "toward_not_run": unverified}
    answer(arguments, {**facts, "files": files, **found}, "\n".join(lines))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """This machine → what is installed, what is missing, and what to do next."""
    facts = doctor_report(Package.open(arguments.package) if arguments.package else None)
    answer(arguments, facts, doctor_text(facts))
    return 0


def open_explainer(arguments: argparse.Namespace, package: Package | None = None) -> Explainer:
    """Of the package that the command names, or of that package, opened already: its hashes cost a read."""
    return Explainer(
        package or arguments.package,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
    )


def _target(arguments: argparse.Namespace, explainer: Explainer) -> np.ndarray | None:
    """float32 (D,): the embedding that --toward names, a picture's or that of a .npy file."""
    if arguments.toward is None:
        return None
    if arguments.toward.suffix != ".npy":
        return explainer.target(arguments.toward)
    try:
        vector = np.load(arguments.toward, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"--toward {arguments.toward} cannot be read ({error})",
            expected="a picture, or an embedding that numpy.save wrote",
            cure="check the file",
        ) from error
    if vector.dtype.kind != "f":
        raise InputError(
            f"--toward {arguments.toward}: {vector.dtype} {vector.shape}",
            expected="an embedding of this package, float32",
            cure="save one row: numpy.save(FILE, embedding)",
        )
    target = explainer.target(vector)
    return target if target.any() else None  # zeros are the picture itself


def draw_options(arguments: argparse.Namespace, explainer: Explainer) -> dict[str, Any]:
    """`keep` and `style` of `Explanation.overlay`; a `keep` that cannot be is refused before any work."""
    if arguments.keep is not None:
        share_for(curve_of(explainer.manifest.level), arguments.keep)
    return {"keep": arguments.keep, "style": arguments.style or STYLES[0]}


@contextmanager
def _without_mask(package: Package, beside: Backend, device: int) -> Iterator[EmbeddingBackend | None]:
    backend = without_mask(package, beside, device)
    try:
        yield backend
    finally:
        if backend is not None:
            backend.close()


@contextmanager
def _for_targets(
    package: Package, beside: Backend, device: int
) -> Iterator[tuple[TargetBackend | None, str]]:
    """What takes targets on the library of a backend; or None, and why not, if the package takes any."""
    if not takes_targets(package):
        yield None, ""
        return
    try:
        backend = toward_backend(package, beside, device)
    except EngineMismatch as error:
        yield None, f"{error.came}; {error.cure}"
        return
    try:
        yield backend, ""
    finally:
        backend.close()


def _explain_next(package: Path) -> str:
    return f"next: python -m runtime explain {package} PHOTO… --out explained"
