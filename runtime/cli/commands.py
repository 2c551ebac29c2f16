"""The commands explain, compare and report.

Each prints its answer and returns its exit code; its docstring is what --help says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.atomic import refuse_existing
from runtime.bulk.cluster import explain_with_ray
from runtime.bulk.images import Form, Outcome, explain_images, write_parquet
from runtime.bulk.journal import LINES, ROWS, RunRecord
from runtime.bulk.video import explain_video, is_video, video_name
from runtime.cli import console
from runtime.cli.report import THUMBNAIL, Report, write_report
from runtime.comparison import ComparisonPaths
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.media.sources import NamedImage, find_named_images
from runtime.package.folder import Package


def explain(arguments: argparse.Namespace) -> int:
    """Explain images and videos.

    Writes NAME.overlay.jpg and NAME.mask.npy for each image, NAME.overlay.mp4 for a video, one line per image
    in explanations.jsonl and one row in embeddings.npy. An image that cannot be read is skipped and listed.
    If the command was stopped, run it again: it does only what is missing.
    """
    videos = [source for source in arguments.sources if is_video(source)]
    others = [source for source in arguments.sources if not is_video(source)]
    if arguments.overlays == "none" and not videos:
        console.refuse_draw_options(arguments, "with --overlays none", "leave out --overlays none")
    images = find_named_images(others) if others else []
    package = Package.open(arguments.package)
    with console.open_explainer(arguments, package) as explainer:
        draw = console.draw_options(arguments, explainer)
        form = Form(masks=arguments.masks, overlays=arguments.overlays, **draw)
        common = {
            "toward": console.target(arguments, explainer),
            **{name: getattr(arguments, name) for name in ("fidelity", "force", "quiet")},
        }
        outcome, frames = Outcome([], 0, []), {}
        if images:
            outcome = _explain_images(arguments, explainer, package, images, form, common)
        for video in videos:
            count = explain_video(explainer, video, arguments.out, form, most=arguments.frames, **common)
            frames[video_name(video)] = count
        backend = explainer.backend
    facts = {"embedding_id": explainer.embedding_id, "backend": backend.name, "why": backend.why}
    text = _explained(arguments.out, outcome, frames, f"on {backend.name}: {backend.why}")
    return console.answer(arguments, {**facts, **outcome._asdict(), "frames": frames}, text)


def _explain_images(
    arguments: argparse.Namespace,
    explainer: Explainer,
    package: Package,
    images: list[NamedImage],
    form: Form,
    common: dict[str, Any],
) -> Outcome:
    if arguments.ray is None:
        outcome = explain_images(explainer, images, arguments.out, form, package=package, **common)
    else:
        outcome = explain_with_ray(
            explainer, package, images, arguments.out, form, workers=arguments.ray, **common
        )
    console.print_skipped(outcome.skipped, len(images))
    if arguments.embeddings == "parquet":
        write_parquet(arguments.out)
    return outcome


def _explained(out: Path, outcome: Outcome, frames: dict[str, int], backend: str) -> str:
    """The answer of `explain` in words."""
    lines, see = [], []
    if any(outcome):
        done, known, skipped = len(outcome.written), outcome.known, len(outcome.skipped)
        lines.append(f"{done} explained, {known} known already, {skipped} skipped")
        if known:
            lines.append("known images keep their overlays and masks; --force replaces them")
        see.append(f"{LINES} has one line per image, {ROWS} the embeddings")
    lines += [f"{name}: {count} frames" for name, count in frames.items()]
    see += [f"play {name}.overlay.mp4; the journal of its frames is in {name}/" for name in frames]
    return "\n".join([*lines, backend, f"next: look into {out}; " + "; ".join(see)])


def compare(arguments: argparse.Namespace) -> int:
    """Show why two images match.

    Their overlays side by side, each showing what is like the other image; the cosine of their embeddings,
    the cosine when only what the masks keep is left, and the cosine with the two masks exchanged. Writes
    A-B.compare.png and A-B.compare.json.
    """
    name = f"{arguments.a.stem}-{arguments.b.stem}"
    for path in ComparisonPaths.of(arguments.out, name):
        refuse_existing(path, force=arguments.force)
    with console.open_explainer(arguments) as explainer:
        draw = console.draw_options(arguments, explainer)
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
    return console.answer(arguments, {**files, **comparison.to_json()}, "\n".join(lines))


def report(arguments: argparse.Namespace) -> int:
    """Write one HTML file with every image and its overlay, sortable by similarity, mask area and fidelity.

    Masks that show nothing and low fidelity are flagged. The most similar images are compared in pairs. Takes
    a package and images, or a folder that nemu explain wrote.
    """
    refuse_existing(arguments.out, force=arguments.force)
    made = _report_of_images(arguments) if arguments.sources else _report_of_folder(arguments)
    for one in made.failed_pairs:
        print(f"not compared: {one['a']} beside {one['b']}: {one['error']}", file=sys.stderr)
    if made.unpaired:
        print(f"pairs: {made.unpaired}", file=sys.stderr)
    lines = [f"flagged {name}" for name in made.flagged]
    lines += [
        f"{made.written} explained, {made.pairs} pairs compared, {len(made.flagged)} flagged, "
        f"{len(made.skipped)} skipped",
        f"next: open {made.path} in a browser; it needs no network",
    ]
    return console.answer(arguments, {**made._asdict(), "path": str(made.path)}, "\n".join(lines))


def _report_of_images(arguments: argparse.Namespace) -> Report:
    """Explain the images into a temporary folder, and report on that."""
    images = find_named_images(arguments.sources)
    package = Package.open(arguments.source)
    with (
        console.open_explainer(arguments, package) as explainer,
        tempfile.TemporaryDirectory(prefix="nemu-report-") as folder,
    ):
        draw = console.draw_options(arguments, explainer)
        form = Form(masks="none", overlays="png", longest=THUMBNAIL, **draw)
        outcome = explain_images(
            explainer, images, Path(folder), form, package=package, fidelity=True, quiet=arguments.quiet
        )
        console.print_skipped(outcome.skipped, len(images))
        return write_report(
            Path(folder), arguments.out, explainer, unread=outcome.skipped, **_page(arguments)
        )


def _report_of_folder(arguments: argparse.Namespace) -> Report:
    """Report on a folder that `nemu explain` wrote; its package compares the pairs, if it is there."""
    record = RunRecord.open(arguments.source)
    console.refuse_draw_options(arguments, "with a folder of overlays", "give the package and the images")
    with _recorded_explainer(arguments, record) as explainer:
        return write_report(arguments.source, arguments.out, explainer, **_page(arguments))


@contextmanager
def _recorded_explainer(arguments: argparse.Namespace, record: RunRecord) -> Iterator[Explainer | None]:
    """An explainer for the embeddings of the record; None if none is needed or its package is gone.

    Raises:
        InputError: the package gives embeddings of another id.
    """
    recorded = Path(record.package)
    if not arguments.pairs or (arguments.package is None and not recorded.is_dir()):
        yield None
        return
    arguments.precision = arguments.precision or record.precision
    package = console.recorded_package(arguments, recorded, record.embedding_id)
    with console.open_explainer(arguments, package) as explainer:
        if explainer.embedding_id != record.embedding_id:
            raise InputError(
                f"{package.path} gives embeddings {explainer.embedding_id}",
                expected=f"{record.embedding_id}, as in {arguments.source}",
                cure=f"give the package and precision that made it ({record.precision}), or --pairs 0",
            )
        yield explainer


def _page(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("low_fidelity", "pairs", "force", "quiet")}
