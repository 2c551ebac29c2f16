"""The commands about anomalies: make a bank of normal pictures, and judge a folder by it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from runtime.anomaly import Anomaly, Watch, fit_bank, open_bank
from runtime.atomic import atomic_file, refuse_existing
from runtime.console import answer
from runtime.encode import encode_jpeg
from runtime.errors import InputError
from runtime.overlay import STYLES
from runtime.package import Package
from runtime.progress import progress
from runtime.sources import OVERLAY, NamedImage, find_named_images

LINES = "anomalies.jsonl"
OVERLAYS = ("anomalous", "all", "none")
"""Of which pictures overlays are written."""


def bank(arguments: argparse.Namespace) -> int:
    """Normal pictures → a bank."""
    refuse_existing(arguments.out, force=arguments.force)
    pictures = find_named_images(arguments.sources)
    made, skipped = fit_bank(
        Package.open(arguments.package),
        ((picture.name, picture.image) for picture in pictures),
        total=len(pictures),
        quiet=arguments.quiet,
    )
    _tell(skipped)
    made.save(arguments.out, force=arguments.force)
    low, middle, high = (float(made.normal_scores.min()), made.threshold(0.5), made.threshold(0.0))
    facts = {
        "bank": str(arguments.out),
        "embedding_id": made.embedding_id,
        "pictures": len(made.names),
        "skipped": skipped,
        "normal_scores": {"least": low, "median": middle, "most": high},
    }
    lines = [
        f"{len(made.names)} normal pictures, {len(skipped)} skipped",
        f"left out in turn they score {low:.3f} to {high:.3f}, half of them up to {middle:.3f}",
        f"next: nemu anomalies {arguments.package} {arguments.out} PHOTO… --out found",
    ]
    answer(arguments, facts, "\n".join(lines))
    return 0


def anomalies(arguments: argparse.Namespace) -> int:
    """Pictures and a bank → a line of JSON each, and overlays of what is strange."""
    refuse_existing(arguments.out / LINES, force=arguments.force)
    known = open_bank(arguments.bank)
    watch = Watch(Package.open(arguments.package), known, false_alarms=arguments.false_alarms)
    pictures = find_named_images(arguments.sources)
    found, skipped = _judge(watch, pictures, arguments)
    _tell(skipped)
    if len(skipped) == len(pictures):
        raise InputError(
            f"none of {len(pictures)} pictures could be read",
            expected="at least one",
            cure="check the files listed above",
        )
    strange = [line for line in found if line["anomalous"]]
    first = sorted(strange, key=lambda line: -line["score"])[:10]
    lines = [f"{line['image']}: {line['score']:.3f}, most like {line['nearest']}" for line in first]
    lines += [f"… and {len(strange) - len(first)} more"] if len(strange) > len(first) else []
    lines += [
        f"{len(strange)} of {len(found)} anomalous, {len(skipped)} skipped; the threshold is "
        f"{watch.threshold:.3f}",
        f"next: look into {arguments.out}; {LINES} has a line for each",
    ]
    facts = {
        "pictures": len(found),
        "anomalous": [line["image"] for line in strange],
        "skipped": skipped,
        "threshold": watch.threshold,
        "embedding_id": known.embedding_id,
    }
    answer(arguments, facts, "\n".join(lines))
    return 0


def _judge(
    watch: Watch, pictures: list[NamedImage], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The lines that were written, whole one by one; and what could not be read."""
    found, skipped = list[dict[str, Any]](), list[dict[str, str]]()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        (arguments.out / LINES).open("w", encoding="utf-8") as file,
        progress(len(pictures), quiet=arguments.quiet) as bar,
    ):
        for picture in pictures:
            bar.update()
            try:
                judged = watch(picture.image)
                files = _draw(judged, picture, arguments)
            except InputError as error:
                skipped.append({"image": str(picture.image), "error": f"{error.came}; {error.cure}"})
                continue
            line = {"name": picture.name, "image": str(picture.image), "files": files, **judged.facts()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            found.append(line)
    return found, skipped


def _draw(judged: Anomaly, picture: NamedImage, arguments: argparse.Namespace) -> dict[str, str]:
    """Write the overlay, if it is wanted; its name below the folder."""
    if arguments.overlays == "none" or (arguments.overlays == "anomalous" and not judged.is_anomalous):
        return {}
    name = f"{picture.name}{OVERLAY}.jpg"
    drawn = encode_jpeg(judged.overlay(style=arguments.style or STYLES[0]))
    with atomic_file(Path(arguments.out, name)) as temporary:
        temporary.write_bytes(drawn)
    return {"overlay": name}


def _tell(skipped: list[dict[str, str]]) -> None:
    for one in skipped:
        print(f"skipped {one['image']}: {one['error']}", file=sys.stderr)
