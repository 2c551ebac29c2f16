"""Tables of `python -m benchmarks.natural`: real encoders, methods compared image by image.

python -m benchmarks.natural_tables      write the tables of docs/natural.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.estimate import Seeds, groups
from benchmarks.common.markdown import Result, Row, command_of, load, records, write_page
from benchmarks.quality.quality_tables import METHODS, columns, comparison, encoders_of, scored

PAGE = "natural.md"
OURS = "nemu"
KIND = "composites"
PAIRED = ("relevance_rank", "relevance_mass", "pointing_game", "roc_auc", "insertion_minus_deletion")
COLUMNS = columns(*PAIRED, "mprt_abs_rho", "ms")
LEVELS = """
encoder: {encoder} | mask: {method} | mask inside: {mask_inside:.3f} | mask outside: {mask_outside:.3f} |
mass ↑: {relevance_mass:.3f} | relevance rank ↑: {relevance_rank:.3f} | area above ½: {mask_area:.3f} |
object's area: {region_area.mean:.3f} | kept: {cosine_kept:.3f} | kept, mask moved: {cosine_kept_moved:.3f} |
ratio: {kept_ratio:.2f} | insertion − deletion ↑: {insertion_minus_deletion:.3f} | seeds: {seeds}
"""
DIFFERENCES = " | ".join(
    ("ours −: {method}", *(f"{key.replace('_', ' ')}: {{{key}}}" for key in PAIRED), "images: {images}")
)
EVIDENCE = """
encoder: {encoder} | object swapped: {moves[object_swapped]:.2f} |
photograph swapped: {moves[photograph_swapped]:.2f} | object removed: {moves[object_removed]:.2f} |
image needed: {needed_area:.1%} | of it in the object: {needed_inside_region:.1%} |
object's area: {region_area:.1%}
"""


def paired(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Ours − each other method on each encoder, over the images that both have.

    `error` is the standard error: of the images' mean differences (each the mean over our seeds), and of
    the spread of our seeds, together.
    """
    found = []
    for group in groups(rows, "encoder"):
        methods = {of["method"]: of.rows for of in groups(group.rows, "method")}
        ours = methods.pop(OURS, [])
        for method, theirs in methods.items() if ours else ():
            for key in PAIRED:
                if difference := _difference(_values(ours, key), _values(theirs, key)):
                    who = {"encoder": group["encoder"], "against": method, "metric": key}
                    found.append({**who, **difference})
    return found


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    """Values (seeds, images) of the images that all rows have; nan where a figure is undefined."""
    lists = [row["values"].get(key, ()) for row in rows]
    return np.array([of[: min(map(len, lists))] for of in lists], dtype=np.float64)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any] | None:
    n = min(ours.shape[1], theirs.shape[1])
    apart = ours[:, :n] - theirs[:, :n].mean(0)  # (seeds, images)
    apart = apart[:, ~np.isnan(apart).any(0)]
    seeds, images = apart.shape
    if images < 2:
        return None
    error = float(apart.mean(0).std(ddof=1)) / math.sqrt(images)
    spread = float(apart.mean(1).std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else 0.0
    return {"difference": float(apart.mean()), "error": math.hypot(error, spread), "images": images}


def methods(result: Result, encoder: str) -> str:
    """Every method on one encoder."""
    return comparison(scored(result, encoder, KIND), COLUMNS)


def differences(result: Result, encoder: str) -> str:
    """Ours − each other method, ± twice its standard error, paired by image."""
    lines: dict[str, dict[str, str]] = {}
    for one in result["paired"]:
        if one["encoder"] == encoder:
            known = {"method": METHODS.get(one["against"], one["against"]), "images": str(one["images"])}
            text = f"{one['difference']:+.3f} ± {2 * one['error']:.3f}"
            lines.setdefault(one["against"], known)[one["metric"]] = text
    return records(lines.values(), DIFFERENCES)


def masks(result: Result) -> str:
    """What the level of the masks means on every encoder, those with random weights included."""
    lines = []
    for encoder in encoders_of(result):
        for of in scored(result, encoder, KIND).values():
            if of["mask_area"]:
                lines.append(Seeds([_with_ratio(row) for row in of.rows], encoder=encoder, **of))
    return records(lines, LEVELS)


def evidence(result: Result) -> str:
    """How far a change moves the embedding, and how much of the image it needs."""
    known = result["encoders"].items()
    return records([{"encoder": name, **facts} for name, facts in known if "moves" in facts], EVIDENCE)


def _with_ratio(row: Row) -> Row:
    """The row with what the mask keeps over what it keeps elsewhere; None where it keeps nothing there."""
    kept, moved = row["cosine_kept"], row["cosine_kept_moved"]
    return {**row, "kept_ratio": kept / moved if moved > 0 else None}


def parts(result: Result, longer: Result, defaults: Result) -> dict[str, str]:
    """The tables of docs/natural.md.

    Args:
        longer: rows of a longer training.
        defaults: rows of a training without an option.
    """
    sections = []
    for name in encoders_of(result):
        if any(row["encoder"] == name for row in result["paired"]):
            sections += [
                f"## Methods on {name}\n",
                "Numbers of images: localisation, faithfulness, sensitivity, MPRT.\n",
                methods(result, name),
                "Ours − the other, paired by image, ± two standard errors:\n",
                differences(result, name),
            ]
    if result["missing"]:
        sections.append("Not measured: " + "; ".join(result["missing"]) + ".\n")
    levels = {"masks": result, "masks_longer": longer, "masks_defaults": defaults}
    return {
        "evidence": "\n".join([evidence(result), *([f"{result['note']}\n"] if "note" in result else [])]),
        **{name: f"`{command_of(of['meta'])}`\n\n{masks(of)}" for name, of in levels.items()},
        "methods": "\n".join(sections),
    }


def main() -> Path:
    """Write the page and return its path."""
    names = ("natural", "gpu/nvidia-h200/natural", "natural_default")
    return write_page(PAGE, parts(*map(load, names)))


if __name__ == "__main__":
    print(main())
