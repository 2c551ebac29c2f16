"""The tables of docs/quality.md and docs/ablation.md, and docs/quality.png, from the results.

    python -m benchmarks.report [--json FILE] [--work DIR] [--out DIR] [--no-picture]

A partial run gives shorter tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.common.markdown import DOCS, RESULTS, Result, Row, command_of, device_of, load, write_page
from benchmarks.common.record import exits
from benchmarks.pages.quality_picture import SHOWN, draw
from benchmarks.quality import quality_tables as tables
from benchmarks.quality.__main__ import WORK
from runtime.errors import InputError, NemuError

PICTURE = "quality.png"
CAPTION = f"""\
![The same scenes on several encoders: the maps change with the encoder]({PICTURE})

The first {len(SHOWN)} standard test scenes (not the best), each on several encoders.  The image
stays, the map has to change.
The truth and the masks (nemu) are on the fixed scale 0 to 1.
Other methods have no level: each map is stretched to its own range, which also paints hot spots
on a map that is nearly flat.
"""


def quality_parts(result: Result, *, picture: bool) -> dict[str, str]:
    """The tables of docs/quality.md.

    Args:
        picture: quality.png is beside the page.
    """
    methods, kinds = [], []
    for name in tables.encoders_of(result):
        if scored := tables.scored(result, name):
            methods += [f"### Encoder `{name}`\n", tables.comparison(scored, tables.FULL)]
        if table := tables.kinds(result, name):
            areas = tables.region_areas(result, name)
            kinds += [f"### Encoder `{name}`, small and unseen\n"]
            kinds += [f"The region is {areas}.\n", table] if areas else [table]
    return {
        "picture": CAPTION if picture else "",
        "evidence": tables.evidence(result),
        "methods": "\n".join(methods),
        "masks": tables.masks(result),
        "kinds": "\n".join(kinds),
        "ablation": "The masker's training, one choice at a time: [ablation.md](ablation.md).\n",
        "provenance": provenance(result["meta"]),
    }


def ablation_parts(result: Result, weight: Result) -> dict[str, str]:
    """The tables of docs/ablation.md.

    Args:
        weight: result of the methods `nemu` and `nemu, weight 0.5`.
    """
    lines = [f"`{command_of(weight['meta'])}`\n"]
    for name in tables.encoders_of(weight):
        lines += [f"### Encoder `{name}`\n", tables.comparison(tables.scored(weight, name), tables.WEIGHT)]
    return {
        "ablation": tables.ablation(result),
        "weight": "\n".join(lines),
        "provenance": provenance(result["meta"]),
    }


def provenance(meta: Row) -> str:
    """Command, versions, device and commit."""
    versions = ", ".join(f"{name} {v}" for name, v in (meta.get("versions") or {}).items() if v)
    return (
        f"```\npython -m benchmarks.encoders\n{command_of(meta)}\n```\n\n"
        f"- versions: {versions or 'unknown'}\n"
        f"- device: {device_of(meta)}\n"
        f"- commit: {meta.get('commit', 'unknown')}\n"
    )


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    p.add_argument("--json", type=Path, default=RESULTS / "quality.json")
    p.add_argument("--out", type=Path, default=DOCS, help="folder of the pages")
    p.add_argument("--no-picture", action="store_true", help="keep the figure that is there, if any")
    p.add_argument("--work", type=Path, default=WORK, help="--work of benchmarks.quality (%(default)s)")
    o = p.parse_args()
    if not o.json.is_file():
        raise InputError(f"{o.json} does not exist", expected="a result", cure="python -m benchmarks.quality")
    o.out.mkdir(parents=True, exist_ok=True)
    result = json.loads(o.json.read_text())
    if not o.no_picture:
        try:
            methods = {row["method"] for row in result["rows"]}
            draw(o.out / PICTURE, tables.encoders_of(result), methods, work=o.work)
        except NemuError as error:  # the encoders are not there
            print(f"no picture: {error}", file=sys.stderr)
    parts = quality_parts(result, picture=(o.out / PICTURE).exists())
    print(write_page("quality.md", parts, o.out))
    print(write_page("ablation.md", ablation_parts(load("ablation"), load("quality_weight")), o.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
