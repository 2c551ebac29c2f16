"""What `index`, `search` and `canary` do, once their arguments are read; see `runtime.commands`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.commands import draw_options, open_explainer
from runtime.console import answer
from runtime.errors import InputError, ParityError
from runtime.index.build import index_pictures
from runtime.index.canary import check
from runtime.index.opened import Index
from runtime.index.search import RECORD
from runtime.index.search import search as search_index
from runtime.package import Package
from runtime.sources import find_named_images


def index(arguments: argparse.Namespace) -> int:
    """Pictures → an index."""
    pictures = find_named_images(arguments.sources)
    package = Package.open(arguments.package)
    with open_explainer(arguments, package) as explainer:
        done = index_pictures(
            explainer,
            package,
            pictures,
            arguments.out,
            store=arguments.store,
            fidelity=arguments.fidelity,
            force=arguments.force,
            quiet=arguments.quiet,
        )
        backend = explainer.backend
    outcome, record = done.outcome, done.record
    for one in outcome.skipped:
        print(f"skipped {one['error']}", file=sys.stderr)
    if done.sample < 2:
        print(
            f"warning: {done.sample} pictures fit into the canary's sample, and nemu canary needs two",
            file=sys.stderr,
        )
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
        f"{record.rows} rows in {record.store}; {done.sample} pictures ({done.sample_bytes / 1e6:.1f} MB) "
        "kept for nemu canary",
        f"on {backend.name}: {backend.why}",
        f"next: nemu search {arguments.out} PHOTO --out found",
    ]
    answer(arguments, facts, "\n".join(lines))
    return 0


def search(arguments: argparse.Namespace) -> int:
    """A photograph → what is like it in an index, and why."""
    with Index.open(arguments.index) as opened:
        package = _package(arguments, opened)
        with open_explainer(arguments, package) as explainer:
            found = search_index(
                opened,
                explainer,
                package,
                arguments.photo,
                arguments.out,
                k=arguments.k,
                draw=draw_options(arguments, explainer),
                force=arguments.force,
            )
    if not found["same_package"]:
        print(
            f"warning: {package.path} is not the package that made the index; embeddings are the same, "
            "masks may differ",
            file=sys.stderr,
        )
    lines = [
        f"{hit['rank']:2}  {hit['similarity']:.3f}  {hit['name']}"
        + ("" if hit["picture"] == "there" else f"  ({hit['picture']})")
        for hit in found["hits"]
    ]
    lines.append(f"masks: {found['masks']}")
    lines.append(f"next: look at the pictures in {arguments.out}; the numbers are in {RECORD}")
    answer(arguments, found, "\n".join(lines))
    return 0


def canary(arguments: argparse.Namespace) -> int:
    """An index → whether it still holds; 3 if not."""
    with (
        Index.open(arguments.index) as opened,
        open_explainer(arguments, _package(arguments, opened)) as explainer,
    ):
        found = check(opened, explainer, quiet=arguments.quiet)
    facts = found.difference
    lines = [f"{'index':9}{facts.old_id}", f"{'package':9}{facts.new_id}"]
    if facts.least_cosine is not None:
        lines += [
            f"{'cosine':9}least {facts.least_cosine:.4f}, median {facts.median_cosine:.4f}",
            f"{'recall':9}{facts.recall:.3f} ± {facts.recall_spread:.3f} of the {facts.k} nearest",
            f"{'error':9}{found.embedding_error:.2e} of the median distance",
        ]
    if facts.n:
        lines.append(f"{'masks':9}IoU {facts.mask_iou:.3f}, mean difference {facts.mask_difference:.3f}")
    lines += [f"against it: {objection}" for objection in found.objections()]
    lines.append(f"{found.sample} pictures: the index " + ("holds" if found.holds else "does not hold"))
    lines.append(
        "next: nothing; the index stays"
        if found.holds
        else "next: go back to what made it (package, precision, libraries), or index the pictures again"
    )
    answer(arguments, found.to_json(), "\n".join(lines))
    return 0 if found.holds else ParityError.exit_code


def _package(arguments: argparse.Namespace, opened: Index) -> Package:
    """The one that the command names, or that the index remembers.  Raises `InputError`: it has moved."""
    if arguments.package is not None:
        return Package.open(arguments.package)
    remembered = Path(opened.record.package)
    if not remembered.is_dir():
        raise InputError(
            f"the index was made with {remembered}, which is not there",
            expected=f"the package of {opened.record.embedding_id}",
            cure="say where it is now: --package NAME.nemu",
        )
    return Package.open(remembered)
