"""The tables of docs/quality.md and docs/ablation.md, and docs/quality.png, from the results.

    python -m benchmarks.report [--json FILE] [--ablation FILE] [--work DIR] [--no-picture]

A partial run gives shorter tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.common.markdown import DOCS, RESULTS, Result, Row, command_of, device_of, write_page
from benchmarks.pages.quality_picture import COLUMNS, MASKERS, SHOWN, draw
from benchmarks.quality import quality_tables as tables
from benchmarks.quality.run import STEPS, WORK
from runtime.errors import NemuError

PICTURE = "quality.png"


def quality_parts(result: Result, *, picture: bool, ablation: bool) -> dict[str, str]:
    """The tables of docs/quality.md.

    Args:
        picture: quality.png is beside the page.
        ablation: ablation.md is beside the page.
    """
    methods, kinds = [], []
    for name in tables.encoders_of(result):
        if rows := tables.scored(result, name):
            methods += [f"### Encoder `{name}`\n", tables.comparison(rows, tables.FULL)]
        if table := tables.kinds(result, name):
            areas = tables.region_areas(result, name)
            kinds += [f"### Encoder `{name}`, small and unseen\n"]
            kinds += [f"The region is {areas}.\n", table] if areas else [table]
    link = "The masker's training, one choice at a time: [ablation.md](ablation.md).\n"
    return {
        "picture": _caption() if picture else "",
        "evidence": tables.evidence(result),
        "methods": "\n".join(methods),
        "masks": tables.masks(result),
        "kinds": "\n".join(kinds),
        "ablation": link if ablation else "",
        "provenance": provenance(result["meta"]),
    }


def ablation_parts(result: Result, weight: Result | None) -> dict[str, str]:
    """The tables of docs/ablation.md.

    Args:
        weight: result of the methods `nemu` and `nemu, weight 0.5`.
    """
    names = tables.encoders_of(result)
    encoder = "digits" if "digits" in names or not names else names[0]
    parts = {"ablation": tables.ablation(result, encoder), "provenance": provenance(result["meta"])}
    if weight:
        lines = [f"`{command_of(weight['meta'])}`\n"]
        for name in tables.encoders_of(weight):
            rows = tables.scored(weight, name)
            lines += [f"### Encoder `{name}`\n", tables.comparison(rows, tables.WEIGHT)]
        parts["weight"] = "\n".join(lines)
    return parts


def provenance(meta: Row) -> str:
    """Command, versions, device and commit."""
    versions = ", ".join(f"{name} {v}" for name, v in (meta.get("versions") or {}).items() if v)
    return (
        f"```\npython -m benchmarks.encoders\n{command_of(meta)}\n```\n\n"
        f"- versions: {versions or 'unknown'}\n"
        f"- device: {device_of(meta)}\n"
        f"- commit: {meta.get('commit', 'unknown')}\n"
    )


def _caption() -> str:
    masks = " and ".join(COLUMNS[m] for m in MASKERS)
    return (
        f"![The same scenes on several encoders: the maps change with the encoder]({PICTURE})\n\n"
        f"The first {len(SHOWN)} standard test scenes (not the best), each on several encoders.  The image\n"
        "stays, the map has to change.\n"
        f"The truth and the masks ({masks}) are on the fixed scale 0 to 1.\n"
        "Other methods have no level: each map is stretched to its own range, which also paints hot spots\n"
        "on a map that is nearly flat.\n"
    )


def write_reports(o: argparse.Namespace) -> list[Path]:
    """Write each page that has results; returns the pages' paths."""
    written: list[Path] = []
    o.out.mkdir(parents=True, exist_ok=True)
    if o.ablation.exists():
        weight = json.loads(o.weight.read_text()) if o.weight.exists() else None
        parts = ablation_parts(json.loads(o.ablation.read_text()), weight)
        written.append(write_page("ablation.md", parts, o.out))
    if o.json.exists():
        result = json.loads(o.json.read_text())
        if not o.no_picture:
            _draw(result, o)
        parts = quality_parts(result, picture=(o.out / PICTURE).exists(), ablation=bool(written))
        written.append(write_page("quality.md", parts, o.out))
    return written


def _draw(result: Result, o: argparse.Namespace) -> None:
    """Draw the methods that have rows; without the encoders a message is printed, and the tables go on."""
    names, methods = tables.encoders_of(result), tables.methods_of(result)
    try:
        draw(o.out / PICTURE, names, methods, work=o.work, steps=o.steps)
    except NemuError as error:
        print(f"no picture: {error}", file=sys.stderr)


def main() -> int:
    """Returns 0, or 1 if there are no results to report."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    p.add_argument("--json", type=Path, default=RESULTS / "quality.json")
    p.add_argument("--ablation", type=Path, default=RESULTS / "ablation.json")
    p.add_argument("--weight", type=Path, default=RESULTS / "quality_weight.json")
    p.add_argument("--out", type=Path, default=DOCS, help="folder of the pages")
    p.add_argument("--no-picture", action="store_true", help="keep the picture that is there, if any")
    p.add_argument("--work", type=Path, default=WORK, help="--work of benchmarks.quality.run (%(default)s)")
    p.add_argument("--steps", type=int, default=STEPS, help="--steps of benchmarks.quality.run (%(default)s)")
    o = p.parse_args()
    for path in (o.json, o.ablation):
        if not path.exists():
            print(f"{path}: not there, left out", file=sys.stderr)
    written = write_reports(o)
    for path in written:
        print(path)
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
