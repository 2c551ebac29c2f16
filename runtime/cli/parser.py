"""The parser of `nemu explain | compare | report | …`: every command with its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.anomaly.watch import FALSE_ALARMS
from runtime.bulk.images import MASKS, OVERLAYS
from runtime.cli import anomalies, checks, commands, console, index_commands, options
from runtime.cli.report import LOW_FIDELITY, PAIRS
from runtime.index.diff import LEAST_COSINE, LEAST_RECALL
from runtime.media.overlay import STYLES
from runtime.package.parity import LIMITS

_Command = Callable[[Any, str, str], argparse.ArgumentParser]
"""Adds a command, given its function, a description and an example; the function's name is the command's."""


def parser() -> argparse.ArgumentParser:
    """The parser; its result's `command` is the function to call with that result."""
    made = argparse.ArgumentParser(
        prog="nemu",
        description="Exit codes: 0 done, 1 error, 2 wrong usage, 3 the parity gate failed or assess, diff or "
        "canary answers no, 130 stopped by Ctrl-C.",
    )
    known = made.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, text: str, example: str) -> argparse.ArgumentParser:
        name = function.__name__
        sub = known.add_parser(
            name, help=text, description=text, epilog=f"example: nemu {name} {example}".rstrip()
        )
        sub.set_defaults(command=function)
        console.add_arguments(sub)
        return sub

    for add in (
        _explain,
        _compare,
        _report,
        _assess,
        _bank,
        _anomalies,
        _diff,
        *index_commands.PARSERS,
        _bench,
        _info,
        _doctor,
        _verify,
    ):
        add(command)
    return made


def _explain(command: _Command) -> None:
    sub = command(
        commands.explain,
        "Explain images and videos. Writes NAME.overlay.jpg and NAME.mask.npy for each image, "
        "NAME.overlay.mp4 for a video, one line per image in explanations.jsonl and one row in "
        "embeddings.npy. An image that cannot be read is skipped and listed. If the command was stopped, "
        "run it again: it does only what is missing.",
        "demo.nemu photos/ --out explained",
    )
    options.add_package(sub)
    options.add_sources(sub, "files, folders, patterns, videos, numbers of cameras, or - for paths on stdin")
    options.add_out(sub)
    sub.add_argument(
        "--masks", choices=MASKS, default="npy", help="float32, 16-bit grey, or none (%(default)s)"
    )
    sub.add_argument("--overlays", choices=OVERLAYS, default="jpg", help="of images (%(default)s)")
    sub.add_argument(
        "--embeddings", choices=("npy", "parquet"), default="npy", help="parquet: embeddings.parquet as well"
    )
    sub.add_argument(
        "--fidelity", action="store_true", help="also embed what each mask keeps, and measure its similarity"
    )
    sub.add_argument(
        "--toward",
        type=Path,
        metavar="IMAGE|VECTOR.npy",
        help="show what in each image is like this, instead of what made its own embedding",
    )
    options.add_overlay(sub)
    sub.add_argument(
        "--ray",
        type=options.count,
        metavar="N",
        help="explain images with N workers of a Ray cluster (at RAY_ADDRESS, or started here)",
    )
    sub.add_argument(
        "--frames", type=options.count, metavar="N", help="stop a video or camera after N frames"
    )
    options.add_force(sub, "start anew: replace what an earlier run wrote")
    options.add_backend(sub)


def _compare(command: _Command) -> None:
    sub = command(
        commands.compare,
        "Show why two images match: their overlays side by side, each showing what is like the other image; "
        "the cosine of their embeddings, the cosine when only what the masks keep is left, and the cosine "
        "with the two masks exchanged. Writes A-B.compare.png and A-B.compare.json.",
        "demo.nemu query.jpg match.jpg --out compared",
    )
    options.add_package(sub)
    sub.add_argument("a", type=Path, metavar="A", help="first image")
    sub.add_argument("b", type=Path, metavar="B", help="second image")
    sub.add_argument(
        "--toward",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="explain each toward the other, if the masker takes targets (%(default)s)",
    )
    options.add_out(sub)
    options.add_overlay(sub)
    options.add_force(sub, "replace files of an earlier run")
    options.add_backend(sub)


def _report(command: _Command) -> None:
    sub = command(
        commands.report,
        "Write one HTML file with every image and its overlay, sortable by similarity, mask area and "
        "fidelity; masks that show nothing and low fidelity are flagged. The most similar images are "
        "compared in pairs. Takes a package and images, or a folder that nemu explain wrote.",
        "demo.nemu parts/ --out report.html",
    )
    sub.add_argument(
        "source", type=Path, metavar="PACKAGE|EXPLAINED", help="NAME.nemu, or a folder of nemu explain"
    )
    sub.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="with a package: files, folders, patterns, or - for paths on stdin",
    )
    options.add_out(sub, "FILE.html", "output file")
    sub.add_argument(
        "--low-fidelity",
        type=float,
        default=LOW_FIDELITY,
        metavar="COSINE",
        help="flag fidelities below this, default: %(default)s",
    )
    sub.add_argument(
        "--pairs",
        type=options.count_or_zero,
        default=PAIRS,
        metavar="N",
        help="compare at most N pairs, the most similar first; 0: none; default: %(default)s",
    )
    options.add_recorded_package(sub, "explained the folder")
    options.add_overlay(sub)
    options.add_force(sub, "replace the file of an earlier run")
    options.add_backend(sub)


def _assess(command: _Command) -> None:
    sub = command(
        checks.assess,
        "Measure whether the masks can be trusted on your images: mixes them in pairs by known regions and "
        "measures whether the masks lie where the embedding comes from, and follow a target if the package "
        "takes targets. Exit code 3 if they do not.",
        "demo.nemu --images photos/ --out assessed.png",
    )
    options.add_package(sub)
    sub.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE|FOLDER")
    sub.add_argument("--out", type=Path, metavar="FILE.png", help="image of some mixtures and their masks")
    options.add_force(sub, "replace the image of an earlier run")
    options.add_backend(sub)


def _bank(command: _Command) -> None:
    sub = command(
        anomalies.bank,
        "Learn what is normal: images without defects → a file for nemu anomalies. An image that cannot be "
        "read is skipped and listed.",
        "demo.nemu normal/ --out line1.bank",
    )
    options.add_package(sub)
    options.add_sources(sub, "normal images: files, folders, patterns, or - for paths on stdin")
    options.add_out(sub, "NAME.bank", "output file")
    options.add_force(sub, "replace the file")


def _anomalies(command: _Command) -> None:
    sub = command(
        anomalies.anomalies,
        "Find images that differ from the normal ones, how much, and where: one line each in "
        f"{anomalies.LINES}, NAME.overlay.jpg for each anomalous image. Runs on the CPU. An image that "
        "cannot be read is skipped and listed.",
        "demo.nemu line1.bank parts/ --out found",
    )
    options.add_package(sub)
    sub.add_argument("bank", type=Path, metavar="BANK", help="file that nemu bank wrote")
    options.add_sources(sub)
    options.add_out(sub)
    sub.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="SHARE",
        help="share of normal images that may be called anomalous, default: %(default)s",
    )
    sub.add_argument(
        "--overlays",
        choices=anomalies.OVERLAYS,
        default="anomalous",
        help="images to write overlays of (%(default)s)",
    )
    sub.add_argument("--style", choices=STYLES, help=f"style of overlays, as in nemu explain ({STYLES[0]})")
    options.add_force(sub, "replace what an earlier run wrote")


def _diff(command: _Command) -> None:
    sub = command(
        checks.diff,
        "Check whether two packages may share an index: cosine, recall of neighbours and agreement of the "
        f"masks on the same images. Yes if every cosine is at least {LEAST_COSINE} and recall "
        f"{LEAST_RECALL}; if not, exit code 3.",
        "old.nemu new.nemu --images golden/",
    )
    sub.add_argument("old", type=Path, metavar="OLD", help="folder NAME.nemu that made the index")
    sub.add_argument("new", type=Path, metavar="NEW", help="folder NAME.nemu that is to replace it")
    sub.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE|FOLDER")
    options.add_backend(sub)
    sub.add_argument("--new-precision", choices=tuple(LIMITS), help="of NEW; --precision is of OLD")


def _bench(command: _Command) -> None:
    sub = command(
        checks.bench,
        "Measure how fast the package is on this device: each batch size, and a whole call from a JPEG; also "
        "reports the clocks and the power mode, on which the times depend.",
        "demo.nemu",
    )
    options.add_package(sub)
    sub.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="per measurement, default: %(default)s"
    )
    options.add_backend(sub)


def _info(command: _Command) -> None:
    options.add_package(command(checks.info, "Say what a package is and what would run it.", "demo.nemu"))


def _doctor(command: _Command) -> None:
    sub = command(
        checks.doctor, "Say what is installed, what is missing, how to get it, and what to do next.", ""
    )
    sub.add_argument("package", type=Path, nargs="?", metavar="PACKAGE", help="estimate the memory it needs")


def _verify(command: _Command) -> None:
    sub = command(
        checks.verify,
        "Check every file's hash, then the reference outputs on the backend that runs here; exit code 3 if "
        "they are too far off.",
        "demo.nemu --backend onnxruntime",
    )
    options.add_package(sub)
    options.add_backend(sub)
