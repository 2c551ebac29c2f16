"""A report: one HTML file that shows every picture of a folder with its mask, and opens without a network."""

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
from runtime.encode import encode_jpeg, encode_png
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.overlay import STYLES, colour_bar
from runtime.package import Package
from runtime.progress import progress

LOW_FIDELITY = 0.8
"""A picture whose mask keeps less than this of the embedding's direction is flagged."""
_THUMBNAIL = 320
_PAGE = Path(__file__).with_name("report.html")


class Report(NamedTuple):
    """What `write_report` did."""

    path: Path
    written: int
    flagged: list[str]
    """Names of the pictures whose mask shows nothing or keeps too little."""
    skipped: list[dict[str, str]]


def write_report(
    explainer: Explainer,
    package: Package,
    images: list[Path],
    path: Path,
    *,
    low_fidelity: float = LOW_FIDELITY,
    keep: float | None = None,
    style: str = STYLES[0],
    force: bool = False,
    quiet: bool = False,
) -> Report:
    """Explain every picture, and write the page; a picture that cannot be read is skipped and listed.

    Args:
        images: pictures; their paths below the folder that all share become their names.
        path: of the HTML file.
        low_fidelity: what is below it is flagged.
        keep, style: of `Explanation.overlay`; the numbers are of the whole masks.
        quiet: no progress bar.

    Raises:
        InputError: none of the pictures could be read; as `Explanation.overlay`.
        OutputExists: `path` is there and `force` is not given.
    """
    with atomic_file(path, force=force) as page, progress(len(images), quiet=quiet) as bar:
        pictures: list[dict[str, Any]] = []
        embeddings: list[np.ndarray] = []
        skipped: list[dict[str, str]] = []
        root = _root(images)
        for image in images:
            try:
                explanation = explainer(image, fidelity=True)
            except InputError as error:
                skipped.append({"image": str(image), "error": error.came})
                continue
            finally:
                bar.update()
            name = image.relative_to(root).as_posix()
            overlay = explanation.overlay(keep=keep, style=style)
            pictures.append(_picture(name, explanation, overlay, low_fidelity))
            embeddings.append(explanation.embedding)
        if not pictures:
            raise InputError(
                f"none of {len(images)} pictures could be read",
                expected="at least one",
                cure="check the files: " + "; ".join(one["error"] for one in skipped[:3]),
            )
        unit = _unit(np.stack(embeddings))
        for picture, similarity in zip(pictures, _nearest(unit), strict=True):
            picture["nearest"] = similarity
        facts = _facts(explainer, package, pictures, skipped, low_fidelity)
        facts["overlays"] = _legend(keep, style)
        title = f"{package.path.stem}: {len(pictures)} pictures"
        page.write_text(_fill(title, facts, pictures, unit, coloured=style == "heat"))
    flagged = [picture["name"] for picture in pictures if picture["flags"]]
    return Report(path, len(pictures), flagged, skipped)


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
    title: str, facts: dict[str, str], pictures: list[dict[str, Any]], unit: np.ndarray, *, coloured: bool
) -> str:
    data = {
        "facts": facts,
        "pictures": pictures,
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


def _nearest(unit: np.ndarray) -> list[float]:
    """Of every row, the cosine to the row most like it; 1 if it is the only one."""
    if len(unit) == 1:
        return [1.0]
    nearest = []
    for i, row in enumerate(unit):
        cosines = unit @ row
        cosines[i] = -np.inf
        nearest.append(round(float(cosines.max()), 6))
    return nearest


def _root(images: list[Path]) -> Path:
    """The deepest folder that all pictures share."""
    parents = [set(image.parents) for image in images]
    return max(set.intersection(*parents), key=lambda folder: len(folder.parts)) if parents else Path()


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
