"""docs/quality.md, docs/quality.png and docs/ablation.md, from what `python -m benchmarks.quality` wrote.

    python -m benchmarks.report [--json FILE] [--ablation FILE] [--work DIR] [--no-picture]
    python -m benchmarks.tables

The second puts the short table into README.  A partial run gives shorter tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import quality_tables as tables
from benchmarks.quality import STEPS, WORK
from benchmarks.quality_picture import COLUMNS, MASKERS, SHOWN, draw
from benchmarks.tables import RESULTS, ROOT
from runtime.atomic import atomic_file
from runtime.errors import NemuError
from train.objective import AREA_PRICE

PICTURE = "quality.png"

INTRODUCTION = """\
# Do explanations find what an embedding depends on?

Made by `python -m benchmarks.report`; do not edit.
Our maskers were trained with `--masker lateral-wide --area-weight 0.5`, the defaults of the time.  What
today's decoder changes is in README's table of decoders, what today's weight changes is in
[ablation.md](ablation.md).

Scenes are synthetic (`benchmarks/world.py`): a photograph, a textured patch, clutter, a red and a blue
handwritten digit.  Each encoder was trained to see one or two of these and to ignore the rest, so the
pixels that its embedding depends on, its *region*, are known.  (`selfsup` was trained without labels: what it
depends on is measured below, no region is planted, and only faithfulness is scored.)  Test scenes share
no photograph, no handwriting and no texture's parameters with the training of encoders or maskers.  The
objective's defaults were chosen on encoder `digits` with other test scenes than those scored here, but of
the same five test photographs and the same handwriting.  `convnext` was not tuned on: another family of
encoders, run once at the end.  Every method explains the same frozen encoder on the same scenes, an
expensive one only on the first few of them: compare numbers of images before small differences.
"""

EVIDENCE = """\
## What the encoders look at

Not taken on trust: one part of a test scene (standard scenes) is changed and the embedding's move is
measured, in units of the median distance between the embeddings of different scenes.  *Image needed* is
the smallest area that keeps a centred cosine of 0.9 in front of another photograph, found greedily (an
upper bound).  Where it is smaller than the region, a faithful map need not fill the region: a rank below
1 is then no error.
"""

READING = """\
## Methods

**Reading the tables.**  With several seeds (of the masker's training): mean ± sample standard deviation
over seeds; with one: value ± standard error over images; no ± where neither is known.  The best of a
column is **bold**; ≈ marks what differs from it by less than 2·√(noise₁² + noise₂²), noise² = standard
error over images² + standard deviation over seeds².  The controls never look at the encoder and do not
compete.  Images: of the localisation and complexity columns / insertion − deletion / sensitivity / MPRT.

- *Relevance rank*: share of the region among the |region| highest pixels; *corrected*: 0 at chance, 1 if
  perfect.
- *Mass*: share of the map that lies in the region.  *Pointing*: is the highest pixel in it?  *AUC*: of ROC.
- *Complexity*: entropy of the map, nats.  *Sparseness*: its Gini index.  Neither says whether it is right.
- *Insertion − deletion*: area between the two curves of the centred cosine, hidden pixels showing a
  photograph.
- *Sensitivity*: relative change of the map when noise is added to the image.
- *MPRT*: rank correlation with the map of the same method on a randomised encoder, mean over five of them
  (three for IG, one for occlusion and RELAX), ± over encoders; in brackets the floor, the correlation that
  maps of different images have anyway.  Bold: at or below the floor, which is as good as it gets.
- *ms per image*: one image at a time, the encoder's own pass included.
"""

MASKS = """\
## Masks

The level of a mask means something; that of the other maps does not.  *Area*: of the mask above 0.5,
relative to the region.  *Cosine kept*: centred cosine of the embedding when only that area is shown, in
front of another photograph or of the image's mean colour.  *Training*: wall time while other runs shared
the processor, an upper bound.  *Break-even*: the number of images after which training has paid for itself
against RELAX.  A ranking has no level.
"""

KINDS = """\
## Small digits, unseen clutter

*small*: digits of at most 2 % of the picture; *unseen*: clutter of shapes that no training showed.
Expensive methods were not run on these.
"""

ABLATION = """\
# Ablation of the masker's training

Made by `python -m benchmarks.report`; do not edit.  Metrics: [quality.md](quality.md).

Encoder `{encoder}`, 200 standard scenes; with several seeds mean ± standard deviation over seeds, with one
± standard error over images.  *Options* are those of `python -m train`, in place of its defaults (objective
`sparse`, fill `mixed`, centred, area weight 1/2, masker `lateral-wide`); *area / region's* and *cosine kept*
are of the mask above 0.5.  Not tried: an area weight that a target fidelity sets, a ranking calibrated to
areas.
"""

WEIGHT = """\
## The weight of the mask's size

The default decoder, `lateral`, and standard scenes (`{command}`).
*nemu* takes the weight from the encoder, {price:g} times the cost of the empty mask; *weight 0.5* was the
default before that.
"""


def quality_page(result: tables.Result, *, picture: bool, ablation: bool) -> str:
    """docs/quality.md."""
    names = tables.encoders_of(result)
    parts = [INTRODUCTION]
    if picture:
        parts.append(_caption())
    parts += [EVIDENCE, tables.evidence(result), READING]
    for name in names:
        if rows := tables.scored(result, name):
            parts += [f"### Encoder `{name}`\n", tables.comparison(rows, tables.FULL)]
    if masks := tables.masks(result):
        parts += [MASKS, masks]
    kinds = {name: table for name in names if (table := tables.kinds(result, name))}
    if kinds:
        parts.append(KINDS)
    for name, table in kinds.items():
        areas = tables.region_areas(result, name)
        parts += [f"### Encoder `{name}`, small and unseen\n", f"The region is {areas}.\n", table]
    if ablation:
        parts.append("The masker's training, one choice at a time: [ablation.md](ablation.md).\n")
    return "\n".join([*parts, provenance(result["meta"])])


def ablation_page(result: tables.Result, weight: tables.Result | None) -> str:
    """docs/ablation.md.

    Args:
        weight: of the methods `nemu` and `nemu, weight 0.5`.
    """
    names = tables.encoders_of(result)
    encoder = "digits" if "digits" in names or not names else names[0]
    parts = [ABLATION.format(encoder=encoder), tables.ablation(result, encoder)]
    if weight:
        parts.append(WEIGHT.format(price=AREA_PRICE, command=command_of(weight["meta"])))
        for name in tables.encoders_of(weight):
            rows = tables.scored(weight, name)
            parts += [f"### Encoder `{name}`\n", tables.comparison(rows, tables.WEIGHT)]
    return "\n".join([*parts, provenance(result["meta"])])


def command_of(meta: Mapping[str, Any]) -> str:
    """As it is typed."""
    return str(meta.get("command", "")).replace("quality.py", "python -m benchmarks.quality", 1)


def provenance(meta: Mapping[str, Any]) -> str:
    """Command, versions, device and commit."""
    versions = ", ".join(f"{name} {v}" for name, v in (meta.get("versions") or {}).items() if v)
    device = str(meta.get("device", "unknown")).partition("; no GPU")
    return (
        "## How it was made\n\n"
        f"```\npython -m benchmarks.encoders\n{command_of(meta)}\n```\n\n"
        f"- versions: {versions or 'unknown'}\n"
        f"- device: {device[0]}{device[1]}\n"
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
    """Everything that there are results for; the pages' paths."""
    written: list[Path] = []
    if o.ablation.exists():
        weight = json.loads(o.weight.read_text()) if o.weight.exists() else None
        page = ablation_page(json.loads(o.ablation.read_text()), weight)
        written.append(_page(o.out / "ablation.md", page))
    if o.json.exists():
        result = json.loads(o.json.read_text())
        if not o.no_picture:
            _draw(result, o)
        page = quality_page(result, picture=(o.out / PICTURE).exists(), ablation=bool(written))
        written.append(_page(o.out / "quality.md", page))
    return written


def _draw(result: tables.Result, o: argparse.Namespace) -> None:
    """The picture of what has rows; a missing encoder is said, and the tables go on."""
    names, methods = tables.encoders_of(result), tables.methods_of(result)
    try:
        draw(o.out / PICTURE, names, methods, work=o.work, steps=o.steps)
    except NemuError as error:
        print(f"no picture: {error}", file=sys.stderr)


def _page(path: Path, text: str) -> Path:
    with atomic_file(path) as temporary:
        temporary.write_text(text)
    return path


def main() -> int:
    """Returns 0, or 1 where there is nothing to report on."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    p.add_argument("--json", type=Path, default=RESULTS / "quality.json")
    p.add_argument("--ablation", type=Path, default=RESULTS / "ablation.json")
    p.add_argument("--weight", type=Path, default=RESULTS / "quality_weight.json")
    p.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pages")
    p.add_argument("--no-picture", action="store_true", help="keep the picture that is there, if any")
    p.add_argument("--work", type=Path, default=WORK, help="of benchmarks.quality (%(default)s)")
    p.add_argument("--steps", type=int, default=STEPS, help="of benchmarks.quality (%(default)s)")
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
