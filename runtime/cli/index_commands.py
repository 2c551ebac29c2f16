"""The commands index, search and canary."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from runtime.cli import console
from runtime.index.build import index_images
from runtime.index.canary import check
from runtime.index.search import FOUND, Index
from runtime.index.search import search as search_index
from runtime.media.sources import find_named_images
from runtime.package.folder import Package


def index(arguments: argparse.Namespace) -> int:
    """Embed images into an index.

    Each row holds, beside the vector, the mask in at most 1000 bytes and what it keeps. An image that cannot
    be read is skipped and listed. If the command was stopped, run it again: it does only what is missing;
    with more images, it adds them.
    """
    images = find_named_images(arguments.sources)
    package = Package.open(arguments.package)
    with console.open_explainer(arguments, package) as explainer:
        options = {name: getattr(arguments, name) for name in ("store", "fidelity", "force", "quiet")}
        done = index_images(explainer, package, images, arguments.out, **options)
        backend = explainer.backend
    outcome, record = done.outcome, done.record
    console.print_skipped(outcome.skipped)
    if done.sample < 2:
        said = f"warning: {done.sample} images fit into the canary's sample, and nemu canary needs two"
        print(said, file=sys.stderr)
    facts = {
        **{name: getattr(record, name) for name in ("embedding_id", "dimension", "rows", "store")},
        "backend": backend.name,
        "why": backend.why,
        "sample": done.sample,
        "bytes": done.sample_bytes,
        **outcome._asdict(),
    }
    lines = [
        f"{len(outcome.written)} indexed, {outcome.known} known already, {len(outcome.skipped)} skipped",
        f"{record.rows} rows in {record.store}; {done.sample} images ({done.sample_bytes / 1e6:.1f} MB) "
        "kept for nemu canary",
        f"on {backend.name}: {backend.why}",
        f"next: nemu search {arguments.out} PHOTO --out found",
    ]
    return console.answer(arguments, facts, "\n".join(lines))


def search(arguments: argparse.Namespace) -> int:
    """Find the most similar images of an index, and show why.

    Writes 01.png, 02.png, … with the two side by side, and search.json. Where an indexed image no longer
    exists, its stored mask is drawn alone.
    """
    with Index.open(arguments.index) as opened:
        package = _package(arguments, opened)
        with console.open_explainer(arguments, package) as explainer:
            options = {"k": arguments.k, "force": arguments.force}
            options["draw"] = console.draw_options(arguments, explainer)
            found = search_index(opened, explainer, package, arguments.photo, arguments.out, **options)
    if not found["same_package"]:
        same = "embeddings have the same id, masks may differ"
        print(f"warning: {package.path} did not make the index; {same}", file=sys.stderr)
    lines = [
        *(_line(hit) for hit in found["hits"]),
        f"masks: {found['masks']}",
        f"next: look at the images in {arguments.out}; the numbers are in {FOUND}",
    ]
    return console.answer(arguments, found, "\n".join(lines))


def _line(hit: dict[str, Any]) -> str:
    state = "" if hit["picture"] == "there" else f"  ({hit['picture']})"
    return f"{hit['rank']:2}  {hit['similarity']:.3f}  {hit['name']}{state}"


def canary(arguments: argparse.Namespace) -> int:
    """Check an index after an upgrade of anything.

    Embeds a sample of images, kept in the index, again. Every cosine must be at least 0.99 and recall 0.95,
    the embedding id the same, the embeddings equal under one id, and the masks as stored; if not, exit
    code 3.
    """
    with (
        Index.open(arguments.index) as opened,
        console.open_explainer(arguments, _package(arguments, opened)) as explainer,
    ):
        found = check(opened, explainer, quiet=arguments.quiet)
    facts = found.difference
    lines = [f"{'index':9}{facts.old_id}", f"{'package':9}{facts.new_id}", *facts.lines()]
    if found.embedding_error is not None:
        lines.append(f"{'error':9}{found.embedding_error:.2e} of the median distance")
    lines += [f"against it: {objection}" for objection in found.objections()]
    lines.append(f"{found.sample} images: the index " + ("holds" if found.holds else "does not hold"))
    lines.append(
        "next: nothing; the index stays"
        if found.holds
        else "next: go back to what made it (package, precision, libraries), or index the images again"
    )
    return console.answer(arguments, found.to_json(), "\n".join(lines), passed=found.holds)


def _package(arguments: argparse.Namespace, opened: Index) -> Package:
    return console.recorded_package(arguments, Path(opened.record.package), opened.record.embedding_id)
