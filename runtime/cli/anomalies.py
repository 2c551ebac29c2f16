"""The commands bank and anomalies: learn from normal images, and judge others by them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from runtime.anomaly.bank import Bank
from runtime.anomaly.watch import Anomaly, Watch, fit_bank
from runtime.atomic import atomic_file, refuse_existing
from runtime.bulk.images import skipped as unreadable
from runtime.cli.console import answer, print_skipped
from runtime.errors import InputError
from runtime.media.encode import encode_jpeg
from runtime.media.overlay import STYLES
from runtime.media.sources import OVERLAY, NamedImage, find_named_images
from runtime.package.folder import Package
from runtime.progress import progress

LINES = "anomalies.jsonl"
OVERLAYS = ("anomalous", "all", "none")
"""Which images get an overlay."""


def bank(arguments: argparse.Namespace) -> int:
    """Learn what is normal: images without defects → a file for nemu anomalies.

    An image that cannot be read is skipped and listed.
    """
    refuse_existing(arguments.out, force=arguments.force)
    images = [(found.name, found.image) for found in find_named_images(arguments.sources)]
    package = Package.open(arguments.package)
    made, skipped = fit_bank(package, images, total=len(images), quiet=arguments.quiet)
    print_skipped(skipped)
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
        f"{len(made.names)} normal images, {len(skipped)} skipped",
        f"leave-one-out scores {low:.3f} to {high:.3f}, median {middle:.3f}",
        f"next: nemu anomalies {arguments.package} {arguments.out} PHOTO… --out found",
    ]
    return answer(arguments, facts, "\n".join(lines))


def anomalies(arguments: argparse.Namespace) -> int:
    """Find images that differ from the normal ones, how much, and where.

    Writes one line each in anomalies.jsonl, NAME.overlay.jpg for each anomalous image. Runs on the CPU. An
    image that cannot be read is skipped and listed.
    """
    refuse_existing(arguments.out / LINES, force=arguments.force)
    known = Bank.load(arguments.bank)
    watch = Watch(Package.open(arguments.package), known, false_alarms=arguments.false_alarms)
    images = find_named_images(arguments.sources)
    found, skipped = _judge(watch, images, arguments)
    print_skipped(skipped, len(images))
    anomalous = [line for line in found if line["anomalous"]]
    first = sorted(anomalous, key=lambda line: -line["score"])[:10]
    lines = [f"{line['image']}: {line['score']:.3f}, nearest {line['nearest']}" for line in first]
    lines += [f"… and {len(anomalous) - len(first)} more"] if len(anomalous) > len(first) else []
    counts = f"{len(anomalous)} of {len(found)} anomalous, {len(skipped)} skipped"
    lines.append(f"{counts}; the threshold is {watch.threshold:.3f}")
    lines.append(f"next: look into {arguments.out}; {LINES} has one line per image")
    facts = {
        "pictures": len(found),
        "anomalous": [line["image"] for line in anomalous],
        "skipped": skipped,
        "threshold": watch.threshold,
        "embedding_id": known.embedding_id,
    }
    return answer(arguments, facts, "\n".join(lines))


def _judge(
    watch: Watch, images: list[NamedImage], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Judge and write one line per image; returns the lines, and the images that could not be read."""
    found, skipped = list[dict[str, Any]](), list[dict[str, str]]()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        (arguments.out / LINES).open("w", encoding="utf-8") as file,
        progress(len(images), quiet=arguments.quiet) as bar,
    ):
        for image in images:
            bar.update()
            try:
                judged = watch(image.image)
                files = _draw(judged, image, arguments)
            except InputError as error:
                skipped.append(unreadable(image.image, error))
                continue
            line = {"name": image.name, "image": str(image.image), "files": files, **judged.facts()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            found.append(line)
    return found, skipped


def _draw(judged: Anomaly, image: NamedImage, arguments: argparse.Namespace) -> dict[str, str]:
    """Write the overlay if it is asked for; returns its name below the folder."""
    if arguments.overlays == "none" or (arguments.overlays == "anomalous" and not judged.is_anomalous):
        return {}
    name = f"{image.name}{OVERLAY}.jpg"
    drawn = encode_jpeg(judged.overlay(style=arguments.style or STYLES[0]))
    with atomic_file(Path(arguments.out, name)) as temporary:
        temporary.write_bytes(drawn)
    return {"overlay": name}
