"""Tables of `python -m benchmarks.natural`: real encoders, methods compared image by image.

python -m benchmarks.natural_tables      write docs/natural.md from benchmarks/results/natural.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import table
from benchmarks.quality_tables import (
    FAITHFUL,
    MASS,
    METHODS,
    NONE,
    RANK,
    TIME,
    Column,
    comparison,
    encoders_of,
    scored,
)

Row = Mapping[str, Any]

OURS = "nemu"
KIND = "composites"
GPU = "benchmarks/results/gpu/nvidia-h200/natural.json"
DEFAULTS = "benchmarks/results/natural_default.json"
PAIRED = ("relevance_rank", "relevance_mass", "pointing_game", "roc_auc", "insertion_minus_deletion")
COLUMNS = (
    RANK,
    MASS,
    Column(key="pointing_game", title="pointing ↑"),
    Column(key="roc_auc", title="AUC ↑"),
    FAITHFUL,
    Column(key="mprt_abs_rho", title="MPRT abs ρ ↓ (floor)", lower=True, beside="mprt_floor"),
    TIME,
)
LEVELS = (
    Column(key="mask_inside", title="mask inside"),
    Column(key="mask_outside", title="mask outside"),
    MASS,
    RANK,
    Column(key="mask_area", title="area above ½"),
    Column(key="region_area", title="object's area", once=True),
    Column(key="cosine_kept", title="kept"),
    Column(key="cosine_kept_moved", title="kept, mask moved"),
    Column(key="kept_ratio", title="ratio", form="{:.2f}".format),
    FAITHFUL,
)


def paired(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Ours − each other method on each encoder, over the images that both have.

    `error` is the standard error: of the images' mean differences (each the mean over our seeds), and of
    the spread of our seeds, together.
    """
    found = []
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        here = [row for row in rows if row["encoder"] == encoder]
        ours = [row for row in here if row["method"] == OURS]
        for method in dict.fromkeys(row["method"] for row in here if row["method"] != OURS):
            theirs = [row for row in here if row["method"] == method]
            for key in PAIRED if ours else ():
                difference = _difference(_values(ours, key), _values(theirs, key))
                if difference:
                    found.append({"encoder": encoder, "against": method, "metric": key, **difference})
    return found


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    """(seeds, images) of the images that all have; nan where a figure is undefined."""
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


def methods(result: Mapping[str, Any], encoder: str) -> str:
    """Every method on one encoder."""
    return comparison(scored(result, encoder, KIND), COLUMNS)


def differences(result: Mapping[str, Any], encoder: str) -> str:
    """Ours − each other method, ± twice its standard error, paired by image."""
    cells: dict[str, dict[str, str]] = {}
    for one in result["paired"]:
        if one["encoder"] == encoder:
            text = f"{one['difference']:+.3f} ± {2 * one['error']:.3f}"
            cells.setdefault(one["against"], {"images": str(one["images"])})[one["metric"]] = text
    columns = (*PAIRED, "images")
    rows = [[METHODS.get(name, name), *(of.get(c, NONE) for c in columns)] for name, of in cells.items()]
    return table(("ours −", *(c.replace("_", " ") for c in columns)), rows)


def masks(result: Mapping[str, Any]) -> str:
    """What the level of masks is worth, on every encoder, those with random weights included."""
    lines = []
    for encoder in encoders_of(result):
        for name, rows in scored(result, encoder, KIND).items():
            if rows[0]["mask_area"] is not None:
                derived = [_with_ratio(row) for row in rows]
                lines.append(
                    [encoder, METHODS.get(name, name), *(c.cell(derived) for c in LEVELS), str(len(rows))]
                )
    return table(("encoder", "mask", *(c.title for c in LEVELS), "seeds"), lines)


def evidence(result: Mapping[str, Any]) -> str:
    """How far a change moves the embedding, and how much of the image it needs."""
    lines = [
        [
            name,
            *(f"{facts['moves'][change]:.2f}" for change in facts["moves"]),
            f"{facts['needed_area']:.1%}",
            NONE if facts["needed_inside_region"] is None else f"{facts['needed_inside_region']:.1%}",
            f"{facts['region_area']:.1%}",
        ]
        for name, facts in result["encoders"].items()
        if "moves" in facts
    ]
    titles = ("object swapped", "photograph swapped", "object removed")
    return table(("encoder", *titles, "image needed", "of it in the object", "object's area"), lines)


def _with_ratio(row: Row) -> Row:
    """What the mask keeps, over what it keeps elsewhere: of means over images; none where that is nothing."""
    kept, moved = row["cosine_kept"], row["cosine_kept_moved"]
    return {**row, "kept_ratio": kept / moved if moved > 0 else None}


INTRODUCTION = """\
# Real encoders, real photographs

Made by `python -m benchmarks.natural_tables`; do not edit.

Encoders trained on ImageNet explain cut-outs of animals, plants and things, pasted on photographs: neither
the object nor the photograph was in the masker's training, and the object's pixels are known.  The object is
not the whole truth (first table).  Every method explains the same frozen encoder on the same pictures.
± is the standard deviation over seeds of training, or else the standard error over pictures.  *Kept*: the
centred cosine that the mask at ½ keeps in front of another photograph; *moved*: what the same mask keeps half
a picture away.  *-random*: the same training on the same network with nothing learned in it.  Data:
`python -m benchmarks.natural_data`, which writes the licence of every picture; part of them are under the GPL
and not in this repository.
"""


def page(result: Mapping[str, Any], longer: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """docs/natural.md.

    Args:
        longer: rows of a longer training.
        defaults: of a training without an option.
    """
    names = [name for name in encoders_of(result) if any(row["encoder"] == name for row in result["paired"])]
    parts = [
        INTRODUCTION,
        "## What moves an embedding\n\nIn units of the median distance between different pictures.\n",
        evidence(result),
        *([f"{result['note']}\n"] if "note" in result else []),
        f"## Masks\n\nAfter {steps_of(result)} steps (`{command_of(result)}`).\n",
        masks(result),
        f"After {steps_of(longer)} steps, on {longer['meta']['device']} ([results](../{GPU}))"
        f"\n(`{command_of(longer)}`).\n",
        masks(longer),
        f"With every default, as in [training.md](training.md): {steps_of(defaults)} steps of "
        f"{defaults['rows'][0]['batch_size']}, and the encoder's own crop ([results](../{DEFAULTS}))\n"
        f"(`{command_of(defaults)}`).\n",
        masks(defaults),
    ]
    for name in names:
        parts += [
            f"## Methods on {name}\n\nNumbers of images: localisation, faithfulness, sensitivity, MPRT.\n",
            methods(result, name),
            "Ours − the other, paired by picture, ± two standard errors:\n",
            differences(result, name),
        ]
    if result["missing"]:
        parts.append("Not measured: " + "; ".join(result["missing"]) + ".\n")
    return "\n".join(parts)


def compact(defaults: Mapping[str, Any]) -> str:
    """README's part."""
    row = defaults["rows"][0]
    return (
        f"**Real encoders on {row['n_images']} unseen composites**, `python -m train` without an option:\n"
        f"{row['train_steps']} steps of {row['batch_size']}; several seeds and other methods are in "
        "[docs/natural.md](docs/natural.md)\n"
        f"(`{command_of(defaults)}`).\n\n" + masks(defaults)
    )


def command_of(result: Mapping[str, Any]) -> str:
    """As it is typed."""
    name, _, arguments = str(result["meta"]["command"]).partition(".py ")
    return f"python -m benchmarks.{name} {arguments}" if arguments else name


def steps_of(result: Mapping[str, Any]) -> int:
    """Of the maskers' training."""
    return next(row["train_steps"] for row in result["rows"] if row["method"] == OURS)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    results = (
        json.loads((root / name).read_text()) for name in ("benchmarks/results/natural.json", GPU, DEFAULTS)
    )
    (root / "docs/natural.md").write_text(page(*results))
