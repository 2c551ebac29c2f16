"""python -m runtime explain | compare | report | assess | bank | anomalies | diff | index | search ...

Exit codes: 0 done, 1 error, 2 wrong usage, 3 the parity gate failed, or the answer of assess, diff or canary
is no, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import anomalies, commands, console
from runtime.anomaly import FALSE_ALARMS
from runtime.backends import NAMES
from runtime.diff import LEAST_COSINE, LEAST_RECALL
from runtime.explain import MASKS, OVERLAYS
from runtime.index import commands as index_commands
from runtime.index.stores import STORES
from runtime.overlay import STYLES
from runtime.parity import LIMITS
from runtime.report import LOW_FIDELITY, PAIRS

_Command = Callable[[str, Any, str, str], argparse.ArgumentParser]
"""Makes a command of a name, a function of `runtime.commands`, a description and an example."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return console.exit_code(
        lambda: arguments.command(arguments),
        stopped="what was finished stays, nothing half-written was left behind",
    )


def _parser() -> argparse.ArgumentParser:
    prog = "nemu" if Path(sys.argv[0]).stem == "nemu" else "python -m runtime"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.partition("\n\n")[2].strip())
    known = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = known.add_parser(name, help=text, description=text, epilog=f"example: {prog} {example}")
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
        _index,
        _search,
        _canary,
        _bench,
        _info,
        _doctor,
        _verify,
    ):
        add(command)
    return parser


def _explain(command: _Command) -> None:
    sub = command(
        "explain",
        commands.explain,
        "Explain pictures and videos: NAME.overlay.jpg and NAME.mask.npy for each picture, NAME.overlay.mp4 "
        "for a video, a line each in explanations.jsonl, a row each in embeddings.npy. A picture that cannot "
        "be read is skipped and listed. Stopped, the same command goes on; what is done is not done again.",
        "explain demo.nemu photos/ --out explained",
    )
    _package_argument(sub)
    _sources_argument(sub, "files, folders, patterns, videos, numbers of cameras, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument(
        "--masks", choices=MASKS, default="npy", help="float32, 16-bit grey, or none (%(default)s)"
    )
    sub.add_argument("--overlays", choices=OVERLAYS, default="jpg", help="of pictures (%(default)s)")
    sub.add_argument(
        "--embeddings", choices=("npy", "parquet"), default="npy", help="parquet: embeddings.parquet as well"
    )
    sub.add_argument(
        "--fidelity", action="store_true", help="also embed what each mask keeps, and say how near it is"
    )
    sub.add_argument(
        "--toward",
        type=Path,
        metavar="PICTURE|VECTOR.npy",
        help="show what in each picture is like this, instead of what made its embedding",
    )
    _overlay_arguments(sub)
    sub.add_argument(
        "--ray",
        type=_count,
        metavar="N",
        help="pictures by N workers of a Ray cluster (RAY_ADDRESS, or here)",
    )
    sub.add_argument("--frames", type=_count, metavar="N", help="end a video or camera after N frames")
    sub.add_argument("--force", action="store_true", help="start anew: replace what an earlier run wrote")
    _backend_arguments(sub)


def _compare(command: _Command) -> None:
    sub = command(
        "compare",
        commands.compare,
        "Why do two pictures match? Two overlays side by side, each showing what is like the other; the "
        "cosine of their embeddings, the same when only what the masks keep survives, and with the two "
        "masks exchanged: A-B.compare.png and A-B.compare.json.",
        "compare demo.nemu query.jpg match.jpg --out compared",
    )
    _package_argument(sub)
    sub.add_argument("a", type=Path, metavar="A", help="a picture")
    sub.add_argument("b", type=Path, metavar="B", help="another")
    sub.add_argument(
        "--toward",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="each toward the other, if the masker takes targets; else each by itself (%(default)s)",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    _overlay_arguments(sub)
    sub.add_argument("--force", action="store_true", help="replace files of an earlier run")
    _backend_arguments(sub)


def _report(command: _Command) -> None:
    sub = command(
        "report",
        commands.report,
        "One HTML file with every picture and its overlay: sortable by similarity, mask area and fidelity; "
        "masks that show nothing and low fidelity are flagged. Then pairs of the pictures most alike, each "
        "with what in it is like the other. A picture that cannot be read is skipped.",
        "report demo.nemu parts/ --out report.html",
    )
    _package_argument(sub)
    _sources_argument(sub, "files, folders, patterns, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    sub.add_argument(
        "--low-fidelity",
        type=float,
        default=LOW_FIDELITY,
        metavar="COSINE",
        help="flag what is below it, default: %(default)s",
    )
    sub.add_argument(
        "--pairs",
        type=_none_or_more,
        default=PAIRS,
        metavar="N",
        help="compare so many pairs at most, the most alike first; 0: none; default: %(default)s",
    )
    _overlay_arguments(sub)
    sub.add_argument("--force", action="store_true", help="replace the page of an earlier run")
    _backend_arguments(sub)


def _assess(command: _Command) -> None:
    sub = command(
        "assess",
        commands.assess,
        "Can the masks be believed, on your pictures? Mixes them in pairs by regions that are known, and "
        "measures whether masks lie where the embedding comes from, and follow a target if the package takes "
        "them. If not, exit code 3.",
        "assess demo.nemu --images photos/ --out assessed.png",
    )
    _package_argument(sub)
    sub.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE|FOLDER")
    sub.add_argument(
        "--out", type=Path, metavar="FILE.png", help="a picture of some mixtures and their masks"
    )
    sub.add_argument("--force", action="store_true", help="replace the picture of an earlier run")
    _backend_arguments(sub)


def _bank(command: _Command) -> None:
    sub = command(
        "bank",
        anomalies.bank,
        "Learn what is normal: pictures without defects → a file that `anomalies` judges others by. A "
        "picture that cannot be read is skipped and listed.",
        "bank demo.nemu normal/ --out line1.bank",
    )
    _package_argument(sub)
    _sources_argument(sub, "normal pictures: files, folders, patterns, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="NAME.bank", help="the file")
    sub.add_argument("--force", action="store_true", help="replace it")


def _anomalies(command: _Command) -> None:
    sub = command(
        "anomalies",
        anomalies.anomalies,
        "Which pictures are unlike the normal ones, how much, and where: a line each in "
        f"{anomalies.LINES}, NAME.overlay.jpg of those that are. On the CPU. A picture that cannot be read "
        "is skipped and listed.",
        "anomalies demo.nemu line1.bank parts/ --out found",
    )
    _package_argument(sub)
    sub.add_argument("bank", type=Path, metavar="BANK", help="file of nemu bank")
    _sources_argument(sub, "files, folders, patterns, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="SHARE",
        help="of normal pictures that may be called anomalous, default: %(default)s",
    )
    sub.add_argument(
        "--overlays", choices=anomalies.OVERLAYS, default="anomalous", help="of which pictures (%(default)s)"
    )
    sub.add_argument("--style", choices=STYLES, help=f"of overlays, as of explain ({STYLES[0]})")
    sub.add_argument("--force", action="store_true", help="replace what an earlier run wrote")


def _diff(command: _Command) -> None:
    sub = command(
        "diff",
        commands.diff,
        "May two packages share an index? Cosine, recall of neighbours and agreement of the masks on the "
        f"same pictures. Yes if every cosine is at least {LEAST_COSINE} and recall {LEAST_RECALL}; if not, "
        "exit code 3.",
        "diff old.nemu new.nemu --images golden/",
    )
    sub.add_argument("old", type=Path, metavar="OLD", help="folder NAME.nemu that the index was made with")
    sub.add_argument("new", type=Path, metavar="NEW", help="folder NAME.nemu that is to take its place")
    sub.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE|FOLDER")
    _backend_arguments(sub)
    sub.add_argument("--new-precision", choices=tuple(LIMITS), help="of NEW; --precision is of OLD")


def _index(command: _Command) -> None:
    sub = command(
        "index",
        index_commands.index,
        "Embed pictures into an index whose rows hold the answer beside the vector: the mask in at most 1000 "
        "bytes, and what it keeps. A picture that cannot be read is skipped and listed. Stopped, the same "
        "command goes on; with more pictures, it takes those in.",
        "index demo.nemu photos/ --out index",
    )
    _package_argument(sub)
    _sources_argument(sub, "files, folders, patterns, or - for paths on stdin")
    sub.add_argument("--out", type=Path, required=True, metavar="INDEX", help="the index's folder")
    sub.add_argument("--store", choices=tuple(STORES), default="parquet", help="default: %(default)s")
    sub.add_argument(
        "--fidelity",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure what each mask keeps, at twice the time",
    )
    sub.add_argument("--force", action="store_true", help="start anew: forget what an earlier run indexed")
    _backend_arguments(sub)


def _search(command: _Command) -> None:
    sub = command(
        "search",
        index_commands.search,
        "What in an index is like a photograph, and why: 01.png, 02.png, ... with the two side by side, and "
        "search.json. Where a picture is no longer there, its stored mask is drawn alone.",
        "search index query.jpg --out found",
    )
    sub.add_argument("index", type=Path, metavar="INDEX", help="folder that nemu index wrote")
    sub.add_argument("photo", type=Path, metavar="PHOTO", help="the query")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    sub.add_argument("--k", type=_count, default=5, metavar="K", help="hits, default: %(default)s")
    _remembered_package(sub)
    _overlay_arguments(sub)
    sub.add_argument("--force", action="store_true", help="replace files of an earlier search")
    _backend_arguments(sub)


def _canary(command: _Command) -> None:
    sub = command(
        "canary",
        index_commands.canary,
        "Does an index still hold, after an upgrade of anything? Embeds the pictures that it keeps for this "
        f"again: every cosine at least {LEAST_COSINE}, recall {LEAST_RECALL}, the same id and, under it, the "
        "same embeddings, and masks as they are stored; if not, exit code 3.",
        "canary index",
    )
    sub.add_argument("index", type=Path, metavar="INDEX", help="folder that nemu index wrote")
    _remembered_package(sub)
    _backend_arguments(sub)


def _bench(command: _Command) -> None:
    sub = command(
        "bench",
        commands.bench,
        "How fast it is on this device: each batch, and the whole way from a JPEG; and the clocks and power "
        "mode that the figures depend on.",
        "bench demo.nemu",
    )
    _package_argument(sub)
    sub.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="of each measurement, default: %(default)s"
    )
    _backend_arguments(sub)


def _info(command: _Command) -> None:
    sub = command("info", commands.info, "What a package is and what would run it here.", "info demo.nemu")
    _package_argument(sub)


def _doctor(command: _Command) -> None:
    sub = command(
        "doctor",
        commands.doctor,
        "What is installed, what is missing, how to get it, what to do next.",
        "doctor",
    )
    sub.add_argument(
        "package", type=Path, nargs="?", metavar="PACKAGE", help="to estimate the memory that it needs"
    )


def _verify(command: _Command) -> None:
    sub = command(
        "verify",
        commands.verify,
        "Check every file's hash, then the reference outputs on the backend at hand; exit code 3 if they are "
        "too far off.",
        "verify demo.nemu --backend onnxruntime",
    )
    _package_argument(sub)
    _backend_arguments(sub)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _none_or_more(text: str) -> int:
    return int(text) and _count(text)


_count.__name__, _none_or_more.__name__ = "number from 1", "number from 0"  # what argparse calls them


def _package_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="folder NAME.nemu")


def _remembered_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--package", type=Path, help="NAME.nemu; default: the one that made the index")


def _sources_argument(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=text)


def _overlay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        type=float,
        metavar="Q",
        help="draw only the region that keeps so much of the embedding on average, such as 0.9",
    )
    parser.add_argument(
        "--style",
        choices=STYLES,
        help="of overlays: spotlight dims all but what is marked, heat draws the mask in colours over a grey "
        f"picture ({STYLES[0]})",
    )


def _backend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU, default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=tuple(LIMITS),
        help="default: fp32 on the CPU, of engines the best, with ep-rtx fp16",
    )


if __name__ == "__main__":
    sys.exit(main())
