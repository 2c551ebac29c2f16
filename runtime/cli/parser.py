"""The parser of `nemu explain | compare | report | …`: every command with its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.anomaly.watch import FALSE_ALARMS
from runtime.backends.choice import NAMES
from runtime.bulk.images import MASKS, OVERLAYS
from runtime.cli import anomalies, checks, commands, console, index_commands
from runtime.cli.report import LOW_FIDELITY, PAIRS
from runtime.index.stores import STORES
from runtime.media.overlay import STYLES
from runtime.package.parity import LIMITS


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def count_or_zero(text: str) -> int:
    """Parse an integer of at least 0."""
    return int(text) and count(text)


count.__name__, count_or_zero.__name__ = "number from 1", "number from 0"  # argparse prints these names


def _path(metavar: str | None, help: str | None = None, **keywords: Any) -> dict[str, Any]:
    return {"type": Path, "metavar": metavar, "help": help, **keywords}


def _value(kind: Callable[[str], Any], metavar: str, help: str, default: Any = None) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "help": help, "default": default}


def _choice(among: tuple[str, ...], help: str, default: str | None = None) -> dict[str, Any]:
    return {"choices": among, "help": help, "default": default}


def _flag(help: str) -> dict[str, Any]:
    return {"action": "store_true", "help": help}


def _yes_or_no(help: str) -> dict[str, Any]:
    return {"action": argparse.BooleanOptionalAction, "help": help, "default": True}


def _sources(help: str, nargs: str = "+") -> dict[str, Any]:
    return {"metavar": "SOURCE", "help": help, "nargs": nargs}


def _out(metavar: str = "DIR", help: str = "output folder") -> dict[str, Any]:
    return _path(metavar, help, required=True)


_LIST = "files, folders, patterns, or - for paths on stdin"
_DEFAULT = "default: %(default)s"
_PACKAGE = _path("PACKAGE", "folder NAME.nemu")
_INDEX = _path("INDEX", "folder that nemu index wrote")
_RECORDED = "NAME.nemu; default: the one that"
_IMAGES = _path("IMAGE|FOLDER", nargs="+", required=True)
_REPLACE = _flag("replace files of an earlier run")
_ANEW = _flag("start anew: replace what an earlier run wrote")
_DRAW = {
    "--keep": _value(
        float, "Q", "draw only the region that keeps this share of the embedding on average, such as 0.9"
    ),
    "--style": _choice(
        STYLES,
        "style of overlays: spotlight dims everything outside the mask, heat draws the mask in colours over "
        f"a grey image (default: {STYLES[0]})",
    ),
}
_BACKEND = {
    "--backend": _choice(NAMES, _DEFAULT, "auto"),
    "--device": _value(int, "N", f"GPU, {_DEFAULT}", 0),
    "--precision": _choice(
        tuple(LIMITS), "default: fp32 on the CPU, the best engine's on a GPU, fp16 with ep-rtx"
    ),
}

_COMMANDS: dict[tuple[Callable[[argparse.Namespace], int], str], dict[str, dict[str, Any]]] = {
    (commands.explain, "demo.nemu photos/ --out explained"): {
        "package": _PACKAGE,
        "sources": _sources("files, folders, patterns, videos, numbers of cameras, or - for paths on stdin"),
        "--out": _out(),
        "--masks": _choice(MASKS, "float32, 16-bit grey, or none (%(default)s)", "npy"),
        "--overlays": _choice(OVERLAYS, "of images (%(default)s)", "jpg"),
        "--embeddings": _choice(("npy", "parquet"), "parquet: embeddings.parquet as well", "npy"),
        "--fidelity": _flag("also embed what each mask keeps, and measure its similarity"),
        "--toward": _path(
            "IMAGE|VECTOR.npy",
            "show what in each image is like this, instead of what made its own embedding",
        ),
        **_DRAW,
        "--ray": _value(
            count, "N", "explain images with N workers of a Ray cluster (at RAY_ADDRESS, or started here)"
        ),
        "--frames": _value(count, "N", "stop a video or camera after N frames"),
        "--force": _ANEW,
        **_BACKEND,
    },
    (commands.compare, "demo.nemu query.jpg match.jpg --out compared"): {
        "package": _PACKAGE,
        "a": _path("A", "first image"),
        "b": _path("B", "second image"),
        "--toward": _yes_or_no("explain each toward the other, if the masker takes targets (%(default)s)"),
        "--out": _out(),
        **_DRAW,
        "--force": _REPLACE,
        **_BACKEND,
    },
    (commands.report, "demo.nemu parts/ --out report.html"): {
        "source": _path("PACKAGE|EXPLAINED", "NAME.nemu, or a folder of nemu explain"),
        "sources": _sources(f"with a package: {_LIST}", "*"),
        "--out": _out("FILE.html", "output file"),
        "--low-fidelity": _value(float, "COSINE", f"flag fidelities below this, {_DEFAULT}", LOW_FIDELITY),
        "--pairs": _value(
            count_or_zero,
            "N",
            f"compare at most N pairs, the most similar first; 0: none; {_DEFAULT}",
            PAIRS,
        ),
        "--package": _path(None, f"{_RECORDED} explained the folder"),
        **_DRAW,
        "--force": _REPLACE,
        **_BACKEND,
    },
    (checks.assess, "demo.nemu --images photos/ --out assessed.png"): {
        "package": _PACKAGE,
        "--images": _IMAGES,
        "--out": _path("FILE.png", "image of some mixtures and their masks"),
        "--force": _REPLACE,
        **_BACKEND,
    },
    (anomalies.bank, "demo.nemu normal/ --out line1.bank"): {
        "package": _PACKAGE,
        "sources": _sources(f"normal images: {_LIST}"),
        "--out": _out("NAME.bank", "output file"),
        "--force": _REPLACE,
    },
    (anomalies.anomalies, "demo.nemu line1.bank parts/ --out found"): {
        "package": _PACKAGE,
        "bank": _path("BANK", "file that nemu bank wrote"),
        "sources": _sources(_LIST),
        "--out": _out(),
        "--false-alarms": _value(
            float, "SHARE", f"share of normal images that may be called anomalous, {_DEFAULT}", FALSE_ALARMS
        ),
        "--overlays": _choice(
            anomalies.OVERLAYS, "images to write overlays of (%(default)s)", anomalies.OVERLAYS[0]
        ),
        "--style": _DRAW["--style"],
        "--force": _REPLACE,
    },
    (checks.diff, "old.nemu new.nemu --images golden/"): {
        "old": _path("OLD", "folder NAME.nemu that made the index"),
        "new": _path("NEW", "folder NAME.nemu that is to replace it"),
        "--images": _IMAGES,
        **_BACKEND,
        "--new-precision": _choice(tuple(LIMITS), "of NEW; --precision is of OLD"),
    },
    (index_commands.index, "demo.nemu photos/ --out index"): {
        "package": _PACKAGE,
        "sources": _sources(_LIST),
        "--out": _out("INDEX", "folder of the index"),
        "--store": _choice(tuple(STORES), _DEFAULT, "parquet"),
        "--fidelity": _yes_or_no("measure what each mask keeps; doubles the time"),
        "--force": _ANEW,
        **_BACKEND,
    },
    (index_commands.search, "index query.jpg --out found"): {
        "index": _INDEX,
        "photo": _path("PHOTO", "the query"),
        "--out": _out(),
        "--k": _value(count, "K", f"hits, {_DEFAULT}", 5),
        "--package": _path(None, f"{_RECORDED} made the index"),
        **_DRAW,
        "--force": _REPLACE,
        **_BACKEND,
    },
    (index_commands.canary, "index"): {
        "index": _INDEX,
        "--package": _path(None, f"{_RECORDED} made the index"),
        **_BACKEND,
    },
    (checks.bench, "demo.nemu"): {
        "package": _PACKAGE,
        "--seconds": _value(float, "S", f"per measurement, {_DEFAULT}", 3.0),
        **_BACKEND,
    },
    (checks.info, "demo.nemu"): {"package": _PACKAGE},
    (checks.doctor, ""): {"package": _path("PACKAGE", "estimate the memory it needs", nargs="?")},
    (checks.verify, "demo.nemu --backend onnxruntime"): {"package": _PACKAGE, **_BACKEND},
}
"""The function of each command and an example; its arguments, and how argparse adds them.  The function's
name is the command's, and its docstring is the description."""


def parser() -> argparse.ArgumentParser:
    """The parser; its result's `command` is the function to call with that result."""
    made = argparse.ArgumentParser(
        prog="nemu",
        description="Exit codes: 0 done, 1 error, 2 wrong usage, 3 the parity gate failed or assess, diff or "
        "canary answers no, 130 stopped by Ctrl-C.",
    )
    known = made.add_subparsers(required=True, metavar="COMMAND")
    for (function, example), options in _COMMANDS.items():
        name, text = function.__name__, function.__doc__
        epilog = f"example: nemu {name} {example}".rstrip()
        sub = known.add_parser(name, help=text, description=text, epilog=epilog)
        sub.set_defaults(command=function)
        console.add_arguments(sub)
        for option, keywords in options.items():
            sub.add_argument(option, **keywords)
    return made
