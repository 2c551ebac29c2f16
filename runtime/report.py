"""A report: one HTML file with every picture of a folder, its mask, and the picture most like it, and why.

It opens without a network.
"""

from __future__ import annotations

import base64
import datetime
import html
import json
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from runtime.atomic import atomic_file
from runtime.comparison import Comparison
from runtime.encode import encode_jpeg, encode_png
from runtime.errors import EngineMismatch, InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.overlay import STYLES, colour_bar
from runtime.package import Package
from runtime.progress import progress

LOW_FIDELITY = 0.8
"""A picture whose mask keeps less than this of the embedding's direction is flagged."""
PAIRS = 40
"""Pictures are compared with the one most like them; so many pairs at most, the most alike first."""
_THUMBNAIL = 320
_PAGE = Path(__file__).with_name("report.html")


class Report(NamedTuple):
    """What `write_report` did."""

    path: Path
    written: int
    flagged: list[str]
    """Names of the pictures whose mask shows nothing or keeps too little."""
    skipped: list[dict[str, str]]
    """Pictures that could not be read: `image` and `error`."""
    pairs: int
    """How many pairs were compared."""
    failed_pairs: list[dict[str, str]]
    """Pairs that could not be: `a`, `b` and `error`."""
    unpaired: str
    """Why none were, although there are some; else no text."""


def write_report(
    explainer: Explainer,
    package: Package,
    images: list[Path],
    path: Path,
    *,
    low_fidelity: float = LOW_FIDELITY,
    keep: float | None = None,
    style: str = STYLES[0],
    pairs: int = PAIRS,
    force: bool = False,
    quiet: bool = False,
) -> Report:
    """Explain every picture, compare each with the one most like it, and write the page.

    A picture that cannot be read is skipped and listed.

    Args:
        images: pictures; their paths below the folder that all share become their names.
        path: of the HTML file.
        low_fidelity: what is below it is flagged.
        keep, style: of `Explanation.overlay`; the numbers are of the whole masks.
        pairs: of pictures, to compare at most (`Explainer.compare`), the most alike first; 0 compares none.
        quiet: no progress bar.

    Raises:
        InputError: none of the pictures could be read; as `Explanation.overlay`.
        OutputExists: `path` is there and `force` is not given.
    """
    draw: dict[str, Any] = {"keep": keep, "style": style}
    pictures: list[dict[str, Any]] = []
    read: list[Path] = []
    embeddings: list[np.ndarray] = []
    skipped, failed = list[dict[str, str]](), list[dict[str, str]]()
    root = _root(images)
    with atomic_file(path, force=force) as page:
        with progress(len(images), quiet=quiet) as bar:
            for image in images:
                try:
                    explanation = explainer(image, fidelity=True)
                except InputError as error:
                    skipped.append({"image": str(image), "error": error.came})
                    continue
                finally:
                    bar.update()
                name = image.relative_to(root).as_posix()
                pictures.append(_picture(name, explanation, explanation.overlay(**draw), low_fidelity))
                read.append(image)
                embeddings.append(explanation.embedding)
        if not pictures:
            raise InputError(
                f"none of {len(images)} pictures could be read",
                expected="at least one",
                cure="check the files: " + "; ".join(one["error"] for one in skipped[:3]),
            )
        unit = _unit(np.stack(embeddings))
        nearest = _nearest(unit)
        for picture, (neighbour, similarity) in zip(pictures, nearest, strict=True):
            picture |= {"neighbour": neighbour, "nearest": similarity}
        alike = _pairs(nearest)
        compared, unpaired = _compare(explainer, read, alike[:pairs], failed, draw, quiet=quiet)
        facts = _facts(explainer, package, pictures, skipped, low_fidelity)
        facts["overlays"] = _legend(keep, style)
        facts["pairs"] = unpaired or _asked(explainer, len(compared), len(alike))
        if failed:
            facts["pairs that failed"] = "; ".join("{a} beside {b}: {error}".format(**one) for one in failed)
        title = f"{package.path.stem}: {len(pictures)} pictures"
        page.write_text(_fill(title, facts, pictures, compared, unit, coloured=style == "heat"))
    flagged = [picture["name"] for picture in pictures if picture["flags"]]
    return Report(path, len(pictures), flagged, skipped, len(compared), failed, unpaired)


def _picture(name: str, explanation: Explanation, overlay: np.ndarray, low_fidelity: float) -> dict[str, Any]:
    fidelity = explanation.fidelity
    flags = [f"{explanation.degenerate} mask: it shows nothing"] if explanation.degenerate else []
    if fidelity is not None and fidelity < low_fidelity:
        flags.append(f"low fidelity: {fidelity:.3f}")
    return {
        "name": name,
        "image": _data("jpeg", encode_jpeg(explanation.image, longest=_THUMBNAIL)),
        "overlay": _data("jpeg", encode_jpeg(overlay, longest=_THUMBNAIL)),
        "area": round(float(explanation.graph_mask.mean()), 6),
        "fidelity": None if fidelity is None else round(fidelity, 6),
        "flags": flags,
    }


def _compare(
    explainer: Explainer,
    images: list[Path],
    alike: list[tuple[int, int]],
    failed: list[dict[str, str]],
    draw: dict[str, Any],
    *,
    quiet: bool,
) -> tuple[list[dict[str, Any]], str]:
    """What the page says of each pair; and why there is none, if nothing here can compare them."""
    compared: list[dict[str, Any]] = []
    with progress(len(alike), unit="pair", quiet=quiet) as bar:
        for a, b in alike:
            try:
                compared.append(_pair(a, b, explainer.compare(images[a], images[b]), draw))
            except InputError as error:  # a file that is gone by now
                failed.append({"a": str(images[a]), "b": str(images[b]), "error": error.came})
            except EngineMismatch as error:
                return [], f"none are compared: {error.came}; {error.cure}"
            finally:
                bar.update()
    return compared, ""


def _pair(a: int, b: int, comparison: Comparison, draw: dict[str, Any]) -> dict[str, Any]:
    one, other = comparison.a, comparison.b
    exchanged = comparison.exchanged_similarity
    return {
        "of": [a, b],
        "similarity": round(comparison.similarity, 6),
        "kept": round(comparison.kept_similarity, 6),
        "exchanged": None if exchanged is None else round(exchanged, 6),
        "overlays": [
            _data("jpeg", encode_jpeg(side.overlay(**draw), longest=_THUMBNAIL)) for side in (one, other)
        ],
        "notes": [
            "has nothing of the other" if side.absent else f"{side.degenerate} mask" * bool(side.degenerate)
            for side in (one, other)
        ],
    }


def _asked(explainer: Explainer, compared: int, alike: int) -> str:
    """How the pairs' overlays are to be read."""
    if not alike:
        return "none: there is one picture"
    if not compared:
        return f"none of {alike}"
    bound = f"{compared} of {alike}, the most alike" if compared < alike else f"{compared}"
    if explainer.takes_target:
        return f"{bound}; each overlay shows what in a picture is like the other one"
    return (
        f"{bound}; each overlay shows what made the picture's own embedding, whatever the other one is: "
        "the package takes no target, or none in this precision"
    )


def _facts(
    explainer: Explainer,
    package: Package,
    pictures: list[dict[str, Any]],
    skipped: list[dict[str, str]],
    low_fidelity: float,
) -> dict[str, str]:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = {
        "package": f"{package.path.name}, hash {package.hash}",
        "embedding": explainer.embedding_id,
        "ran on": f"{explainer.backend.name}: {explainer.backend.why}",
        "written": now,
        "flagged": f"{sum(bool(p['flags']) for p in pictures)}: nearly all 0 or all 1, or fidelity below "
        f"{low_fidelity:g} (cosine between the embedding and that of what the mask keeps)",
    }
    if skipped:
        facts["skipped"] = "; ".join(one["error"] for one in skipped)
    return facts


def _legend(keep: float | None, style: str) -> str:
    """What is drawn, and how to read it; the colours of `heat` have their scale on the page."""
    region = "" if keep is None else f" of the region that keeps {keep:g} of the embedding on average"
    if style == "heat":
        return style + region
    line = "where the mask is 1/2" if keep is None else "around the region"
    return f"{style}{region}: what matters has its own colours, the rest is dark and grey; the line is {line}"


def _fill(
    title: str,
    facts: dict[str, str],
    pictures: list[dict[str, Any]],
    compared: list[dict[str, Any]],
    unit: np.ndarray,
    *,
    coloured: bool,
) -> str:
    data = {
        "facts": facts,
        "pictures": pictures,
        "pairs": compared,
        "dimension": unit.shape[1],
        "embeddings": base64.b64encode(unit.astype("<f4").tobytes()).decode(),
    }
    text = json.dumps(data).replace("<", "\\u003c")  # a name such as </script> stays a name
    bar = _data("png", encode_png(colour_bar(140)))
    scale = "" if coloured else "hidden"
    return Template(_PAGE.read_text()).substitute(title=html.escape(title), scale=scale, bar=bar, data=text)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    """float32 (N, D), each row of length 1, or all zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _nearest(unit: np.ndarray) -> list[tuple[int | None, float]]:
    """Of every row, the row most like it and the cosine of the two; none, and 1, if it is the only one."""
    if len(unit) == 1:
        return [(None, 1.0)]
    nearest: list[tuple[int | None, float]] = []
    for i, row in enumerate(unit):
        cosines = unit @ row
        cosines[i] = -np.inf
        nearest.append((int(cosines.argmax()), round(float(cosines.max()), 6)))
    return nearest


def _pairs(nearest: list[tuple[int | None, float]]) -> list[tuple[int, int]]:
    """Every row with the one most like it, each pair once, the most alike first."""
    cosines = {(min(i, j), max(i, j)): cosine for i, (j, cosine) in enumerate(nearest) if j is not None}
    return sorted(cosines, key=lambda pair: (-cosines[pair], pair))


def _root(images: list[Path]) -> Path:
    """The deepest folder that all pictures share."""
    parents = [set(image.parents) for image in images]
    return max(set.intersection(*parents), key=lambda folder: len(folder.parts)) if parents else Path()


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
