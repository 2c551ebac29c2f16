"""The report: one HTML file of a folder that `nemu explain` wrote.

It shows every image, its overlay, and the image most similar to it, and why.  It opens without a network.
"""

from __future__ import annotations

import base64
import html
import json
import os
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.bulk.images import skipped
from runtime.bulk.journal import LINES, ROWS, TARGET, RunRecord
from runtime.comparison import Comparison
from runtime.errors import EngineMismatch, InputError
from runtime.explainer import Explainer
from runtime.media.encode import encode_jpeg, encode_png
from runtime.media.geometry import load_image
from runtime.media.overlay import colour_bar
from runtime.progress import progress

LOW_FIDELITY = 0.8
"""Images whose mask keeps less than this of the embedding's direction are flagged."""
PAIRS = 40
"""Largest number of pairs that are compared, the most similar first."""
THUMBNAIL = 320
"""Longest side of the page's images, in pixels."""
_PAGE = Path(__file__).with_name("report.html")


class Report(NamedTuple):
    """What `write_report` did."""

    path: Path
    written: int
    flagged: list[str]
    """Names of the images whose mask shows nothing or keeps too little."""
    skipped: list[dict[str, str]]
    """Images that could not be read: `image` and `error`."""
    pairs: int
    """Number of pairs that were compared."""
    failed_pairs: list[dict[str, str]]
    """Pairs that could not be compared: `a`, `b` and `error`."""
    unpaired: str
    """Why no pair was compared although there are some; else empty."""


def write_report(
    folder: Path,
    path: Path,
    explainer: Explainer | None,
    *,
    unread: list[dict[str, str]] | None = None,
    low_fidelity: float = LOW_FIDELITY,
    pairs: int = PAIRS,
    force: bool = False,
    quiet: bool = False,
) -> Report:
    """Write the page of the images in a folder's journal, and compare each with the most similar one.

    An image that cannot be read any more is skipped and listed.

    Args:
        folder: what `runtime.bulk.images.explain_images` wrote, with overlays and a `RunRecord`.
        path: of the HTML file.
        explainer: compares the pairs (`Explainer.compare`); None compares none.
        unread: images that were skipped when the folder was written.
        low_fidelity: lower fidelities are flagged.
        pairs: largest number of pairs, the most similar first; 0 compares none.
        quiet: no progress bar.

    Raises:
        InputError: the folder holds no such results, or no image of it can be read.
        OutputExists: `path` exists and `force` is not given.
    """
    with atomic_file(path, force=force) as page:
        record = RunRecord.open(folder)
        lines, unit = _explained(folder)
        images, failed = _cards(folder, lines, low_fidelity)
        lost = [*(unread or []), *failed]
        files, unit = [Path(lines[i]["image"]) for i in images], unit[list(images)]
        cards = list(images.values())
        nearest = _nearest(unit)
        for card, (neighbour, similarity) in zip(cards, nearest, strict=True):
            card |= {"neighbour": neighbour, "nearest": similarity}
        similar = _pairs(nearest)
        compared, failed, unpaired = _compare(explainer, record, files, similar[:pairs], quiet=quiet)
        facts = _facts(record, cards, lost, failed, low_fidelity)
        facts["pairs"] = unpaired or _how_to_read(len(compared), len(similar), explainer)
        if (folder / TARGET).is_file():
            facts["masks"] = "toward a target: each overlay shows what is like it"
        page.write_text(_fill(record, facts, cards, compared, unit))
    flagged = [card["name"] for card in cards if card["flags"]]
    return Report(path, len(cards), flagged, lost, len(compared), failed, unpaired)


def _explained(folder: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The journal's lines in the order of their paths, and their embeddings (N, D), of length 1 or zero.

    Raises:
        InputError: no image in the journal, or overlays that were not written.
    """
    text = (folder / LINES).read_text(encoding="utf-8") if (folder / LINES).is_file() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    if not lines or not all("overlay" in line.get("files", {}) for line in lines):
        raise InputError(
            f"{folder} holds {len(lines)} explained images" + ", some without an overlay" * bool(lines),
            expected="at least one image, each with its overlay",
            cure="explain images into it again: nemu explain --overlays jpg --force",
        )
    order = sorted(range(len(lines)), key=lambda i: Path(lines[i]["image"]))
    embeddings = np.load(folder / ROWS)[order]
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return [lines[i] for i in order], unit


def _cards(
    folder: Path, lines: list[dict[str, Any]], low_fidelity: float
) -> tuple[dict[int, dict[str, Any]], list[dict[str, str]]]:
    """Line number → what the page says of its image; and the images that cannot be read any more."""
    root = os.path.commonpath([Path(line["image"]).parent for line in lines])
    cards: dict[int, dict[str, Any]] = {}
    failed = []
    for i, line in enumerate(lines):
        try:
            image, overlay = load_image(Path(line["image"])), load_image(folder / line["files"]["overlay"])
        except InputError as error:
            failed.append(skipped(line["image"], error))
            continue
        fidelity, degenerate = line["fidelity"], line["mask"]["degenerate"]
        flags = [f"{degenerate} mask: it shows nothing"] if degenerate else []
        if fidelity is not None and fidelity < low_fidelity:
            flags.append(f"low fidelity: {fidelity:.3f}")
        cards[i] = {
            "name": Path(line["image"]).relative_to(root).as_posix(),
            "image": _thumbnail(image),
            "overlay": _thumbnail(overlay),
            "area": line["mask"]["mean"],
            "fidelity": fidelity,
            "flags": flags,
        }
    if not cards:
        raise InputError(
            f"none of {len(lines)} images can be read any more",
            expected="the images where they were explained",
            cure="check the files: " + "; ".join(one["error"] for one in failed[:3]),
        )
    return cards, failed


def _compare(
    explainer: Explainer | None,
    record: RunRecord,
    images: list[Path],
    pairs: list[tuple[int, int]],
    *,
    quiet: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, str]], str]:
    """Compare pairs of images: those compared, those that failed, and why none can be compared."""
    compared, failed = list[dict[str, Any]](), list[dict[str, str]]()
    if explainer is None:
        gone = f"none are compared: {record.package} does not exist; give its path with --package"
        return [], [], gone if pairs else ""
    with progress(len(pairs), unit="pair", quiet=quiet) as bar:
        for a, b in pairs:
            try:
                compared.append(_pair(a, b, explainer.compare(images[a], images[b]), record))
            except InputError as error:  # a file that was removed in the meantime
                failed.append({"a": str(images[a]), "b": str(images[b]), "error": error.came})
            except EngineMismatch as error:
                return [], [], f"none are compared: {error.came}; {error.cure}"
            bar.update()
    return compared, failed, ""


def _pair(a: int, b: int, comparison: Comparison, record: RunRecord) -> dict[str, Any]:
    sides = (comparison.a, comparison.b)
    exchanged = comparison.exchanged_similarity
    return {
        "of": [a, b],
        "similarity": round(comparison.similarity, 6),
        "kept": round(comparison.kept_similarity, 6),
        "exchanged": None if exchanged is None else round(exchanged, 6),
        "overlays": [_thumbnail(side.overlay(keep=record.keep, style=record.style)) for side in sides],
        "notes": [
            "has nothing of the other" if side.absent else f"{side.degenerate} mask" * bool(side.degenerate)
            for side in sides
        ],
    }


def _how_to_read(n: int, total: int, explainer: Explainer | None) -> str:
    """How many pairs were compared, and how to read their overlays."""
    if not total:
        return "none: there is one image"
    if not n or explainer is None:
        return f"none of {total}"
    bound = f"{n} of {total}, the most similar" if n < total else f"{n}"
    if explainer.takes_target:
        return f"{bound}; each overlay shows what in an image is like the other one"
    return (
        f"{bound}; each overlay shows what made the image's own embedding, whatever the other one is: "
        "the package takes no target, or none in this precision"
    )


def _facts(
    record: RunRecord,
    cards: list[dict[str, Any]],
    lost: list[dict[str, str]],
    failed: list[dict[str, str]],
    low_fidelity: float,
) -> dict[str, str]:
    """What the head of the page says, by its label."""
    facts = {
        "package": f"{Path(record.package).name}, hash {record.package_hash}",
        "embedding": record.embedding_id,
        "ran on": f"{record.backend}, {record.precision}",
        "explained": record.written,
        "flagged": f"{sum(bool(card['flags']) for card in cards)}: masks nearly all 0 or all 1, or fidelity "
        f"below {low_fidelity:g} (cosine between the embedding and that of what the mask keeps)",
        "overlays": _legend(record.keep, record.style),
    }
    if lost:
        facts["skipped"] = "; ".join(one["error"] for one in lost)
    if failed:
        facts["pairs that failed"] = "; ".join("{a} beside {b}: {error}".format(**one) for one in failed)
    return facts


def _legend(keep: float | None, style: str) -> str:
    """How to read the overlays; the colours of `heat` have their scale on the page."""
    region = "" if keep is None else f" of the region that keeps {keep:g} of the embedding on average"
    if style == "heat":
        return style + region
    line = "where the mask is 1/2" if keep is None else "around the region"
    return f"{style}{region}: what matters has its own colours, the rest is dark and grey; the line is {line}"


def _fill(
    record: RunRecord,
    facts: dict[str, str],
    cards: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    unit: np.ndarray,
) -> str:
    data = {
        "facts": facts,
        "images": cards,
        "pairs": pairs,
        "dimension": unit.shape[1],
        "embeddings": base64.b64encode(unit.astype("<f4").tobytes()).decode(),
    }
    text = json.dumps(data).replace("<", "\\u003c")  # a name such as </script> stays a name
    return Template(_PAGE.read_text()).substitute(
        title=html.escape(f"{Path(record.package).stem}: {len(cards)} images"),
        scale="" if record.style == "heat" else "hidden",
        bar=_data("png", encode_png(colour_bar(140))),
        data=text,
    )


def _nearest(unit: np.ndarray) -> list[tuple[int | None, float]]:
    """For each row, the most similar other row and their cosine; (None, 1) if there is only one row."""
    if len(unit) == 1:
        return [(None, 1.0)]
    nearest: list[tuple[int | None, float]] = []
    for i, row in enumerate(unit):
        cosines = unit @ row
        cosines[i] = -np.inf
        nearest.append((int(cosines.argmax()), round(float(cosines.max()), 6)))
    return nearest


def _pairs(nearest: list[tuple[int | None, float]]) -> list[tuple[int, int]]:
    """Each row with its nearest, each pair once, the most similar first."""
    cosines = {(min(i, j), max(i, j)): cosine for i, (j, cosine) in enumerate(nearest) if j is not None}
    return sorted(cosines, key=lambda pair: (-cosines[pair], pair))


def _thumbnail(image: np.ndarray) -> str:
    return _data("jpeg", encode_jpeg(image, longest=THUMBNAIL))


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
