"""Tables of what `python -m benchmarks.quality` wrote; what was not run is left out or `–`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common.markdown import NONE, Result, Row, records, table
from benchmarks.quality.seeds import best_and_near, figure

METHODS = {
    "nemu": "nemu (our objective)",
    "nemu_order": "nemu, by its logits",
    "ranking": "ranking objective",
    "authors": "NEM-U, the authors'",
    "relax": "RELAX",
    "u_relax": "U-RELAX",
    "integrated_gradients": "Integrated Gradients",
    "expected_gradients": "Expected Gradients",
    "gradient_shap": "GradientSHAP",
    "saliency": "saliency",
    "lafam": "LaFAM",
    "occlusion": "occlusion",
    "centre": "centre (control)",
    "random": "random (control)",
    "optimised": "a mask optimised for each image (limit)",
}
"""Titles of the methods, in the order of the tables."""
CONTROLS = ("centre", "random", "nemu_order", "optimised")
"""They do not compete for the best of a column: they ignore the encoder, or repeat ours or its limit."""


def milliseconds(value: float) -> str:
    """Milliseconds with at least three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of a table."""

    key: str
    title: str
    form: Callable[[float], str] = "{:.3f}".format
    lower: bool = False
    """Less is better."""
    beside: str | None = None
    """Another key, shown in brackets."""
    once: bool = False
    """Measured once for all seeds: no ± to show."""

    def cell(self, rows: Sequence[Row]) -> str:
        """`mean ± noise` of one method's rows, `mean` where no noise is known, `–` without a figure."""
        f = figure(rows, self.key)
        if f is None:
            return NONE
        text = self.form(f.mean)
        if f.shown is not None and not self.once:
            text += f" ± {self.form(f.shown)}"
        other = figure(rows, self.beside) if self.beside else None
        return f"{text} ({self.form(other.mean)})" if other else text


RANK = Column(key="relevance_rank", title="relevance rank ↑")
CORRECTED = Column(key="rank_corrected", title="corrected rank ↑")
MASS = Column(key="relevance_mass", title="mass ↑")
COMPLEXITY = Column(key="complexity", title="complexity (entropy) ↓", form="{:.2f}".format, lower=True)
FAITHFUL = Column(key="insertion_minus_deletion", title="insertion − deletion ↑")
TIME = Column(key="ms", title="ms per image ↓", form=milliseconds, lower=True, once=True)
FULL = (
    RANK,
    CORRECTED,
    MASS,
    Column(key="pointing_game", title="pointing ↑"),
    Column(key="roc_auc", title="AUC ↑"),
    COMPLEXITY,
    Column(key="sparseness", title="sparseness ↑"),
    FAITHFUL,
    Column(key="sensitivity", title="sensitivity ↓", lower=True),
    Column(key="mprt_abs_rho", title="MPRT abs ρ ↓ (floor)", lower=True, beside="mprt_floor"),
    TIME,
)
SHORT = (RANK, MASS, COMPLEXITY, FAITHFUL, TIME)
MASKS = (
    Column(key="mask_inside", title="mask inside"),
    Column(key="mask_outside", title="mask outside", lower=True),
    Column(key="area_ratio", title="area / region's", form="{:.2f}".format),
    Column(key="cosine_kept", title="cosine kept, photograph"),
    Column(key="cosine_kept_mean_fill", title="cosine kept, mean colour"),
)
TRAINING = Column(key="train_seconds", title="training, s", form="{:.0f}".format)
ABLATION = (RANK, MASS, *MASKS[:4], FAITHFUL)
WEIGHT = (RANK, MASS, *MASKS[:2], MASKS[3], FAITHFUL)


def encoders_of(result: Result) -> list[str]:
    """Names of the encoders that have rows."""
    return list(dict.fromkeys(row["encoder"] for row in result["rows"]))


def methods_of(result: Result) -> list[str]:
    """Methods that have rows, in the order of the tables; others after them."""
    return _ordered(dict.fromkeys(row["method"] for row in result["rows"]))


def scored(result: Result, encoder: str, kind: str = "standard") -> dict[str, list[Row]]:
    """Rows of each method, in order, with `ms` and `area_ratio` added."""
    found: dict[str, list[Row]] = {}
    for row in result["rows"]:
        if row["encoder"] == encoder and row["kind"] == kind:
            found.setdefault(row["method"], []).append(_derived(row))
    return {name: found[name] for name in _ordered(found)}


def evidence(result: Result) -> str:
    """What each encoder looks at, measured by changing one part of the scene."""
    return records(
        [{"encoder": name, **_evidence(facts)} for name, facts in result["encoders"].items()],
        {
            "encoder": "encoder",
            "region": "region",
            "accuracy": "accuracy",
            "moves when the truth changes": "truth",
            "when all else changes": "rest",
            "image needed": "needed_area",
            "of it in the region": "needed_inside_region",
            "region's area": "region_area",
        },
    )


def comparison(rows: Mapping[str, Sequence[Row]], columns: Sequence[Column], *, images: bool = True) -> str:
    """Methods × metrics; the best bold, what is within noise of it marked.

    Args:
        images: also give numbers of seeds and of images.
    """
    cells: dict[str, list[str]] = {name: [METHODS.get(name, name)] for name in rows}
    for column in columns:
        figures = {name: figure(seeds, column.key) for name, seeds in rows.items()}
        ranked = {name: f for name, f in figures.items() if name not in CONTROLS}
        best, near = best_and_near(ranked, lower=column.lower)
        if column.beside:
            best, near = _at_floor({name: seeds for name, seeds in rows.items() if name in ranked}, column)
        for name, seeds in rows.items():
            text = column.cell(seeds)
            cells[name].append(f"**{text}**" if name in best else f"≈ {text}" if name in near else text)
    titles = ["method", *(column.title for column in columns)]
    if images:
        titles += ["seeds", "images"]
        for name, seeds in rows.items():
            cells[name] += [str(len(seeds)), _counts(seeds)]
    return table(titles, cells.values())


def masks(result: Result) -> str:
    """What the level of the trained masks means, and what their training cost."""
    titles = ("encoder", "masker", *(c.title for c in (*MASKS, TRAINING)), "break-even, images")
    lines = []
    for encoder in encoders_of(result):
        rows = scored(result, encoder)
        for name, seeds in rows.items():
            if figure(seeds, TRAINING.key):
                cells = [c.cell(seeds) for c in (*MASKS, TRAINING)]
                lines.append(
                    [encoder, METHODS.get(name, name), *cells, break_even(seeds, rows.get("relax", []))]
                )
    return table(titles, lines) if lines else ""


def break_even(masker: Sequence[Row], relax: Sequence[Row]) -> str:
    """Number of images after which training has cost no more than RELAX would have."""
    trained, own, other = figure(masker, TRAINING.key), figure(masker, "ms"), figure(relax, "ms")
    if not trained or not own or not other or own.mean >= other.mean:
        return NONE
    return str(math.ceil(1000 * trained.mean / (other.mean - own.mean)))


def kinds(result: Result, encoder: str) -> str:
    """Scenes with small digits, and with clutter that training never shows; empty if none was run."""
    columns = [
        Column(key=f"{kind} {c.key}", title=f"{kind}: {c.title}")
        for kind in ("small", "unseen")
        for c in (CORRECTED, MASS)
    ]
    merged: dict[str, list[Row]] = {}
    for kind in ("small", "unseen"):
        for name, seeds in scored(result, encoder, kind).items():
            merged.setdefault(name, []).extend({f"{kind} {k}": v for k, v in row.items()} for row in seeds)
    rows = {name: merged[name] for name in _ordered(merged)}
    return comparison(rows, columns, images=False) if rows else ""


def region_areas(result: Result, encoder: str) -> str:
    """The region's share of a scene for each kind that was run; a flat map has this mass."""
    areas = {
        kind: figure(
            [row for seeds in scored(result, encoder, kind).values() for row in seeds], "region_area"
        )
        for kind in ("small", "unseen")
    }
    return ", ".join(f"{f.mean:.1%} of a scene ({kind})" for kind, f in areas.items() if f)


def ablation(result: Result, encoder: str) -> str:
    """Trainings × metrics, mean ± standard deviation over seeds."""
    rows, known = scored(result, encoder), result.get("settings", {})
    names = [n for n in known if n in rows] + [n for n in rows if n not in known]
    lines = []
    for name in names:
        options = known.get(name)
        given = NONE if options is None else f"`{shlex.join(options)}`" if options else "(defaults)"
        cells = [c.cell(rows[name]) for c in ABLATION]
        lines.append([METHODS.get(name, name), given, *cells, str(len(rows[name]))])
    return table(("setting", "options", *(c.title for c in ABLATION), "seeds"), lines)


def compact(result: Result) -> str:
    """The short table of one encoder, and where the rest is."""
    names = encoders_of(result)
    if not names:
        return ""
    encoder = "digits" if "digits" in names else names[0]
    rows = scored(result, encoder)
    others = [name for name in names if name != encoder]
    beyond = f"Also for the encoders {', '.join(others)}, with" if others else "With"
    return (
        f"Encoder `{encoder}`, standard scenes.  {_scenes(rows)}.  ± is the standard deviation over seeds of "
        "training, or else the standard error over images; ≈ is within noise of the best.  Controls do not "
        "compete.\n\n"
        f"{comparison(rows, SHORT, images=False)}\n"
        f"{beyond} the other metrics and what they mean: [quality.md](quality.md).\n"
    )


def _derived(row: Row) -> Row:
    seconds, area, region = (row.get(k) for k in ("seconds_per_image", "mask_area", "region_area"))
    return {
        **row,
        "ms": None if seconds is None else 1000 * seconds,
        "area_ratio": None if area is None or not region else area / region,
    }


def _at_floor(rows: Mapping[str, Sequence[Row]], column: Column) -> tuple[set[str], set[str]]:
    """Methods at or below their floor, which is the best possible value, and those within noise of it."""
    best, near = set(), set()
    for name, seeds in rows.items():
        value, floor = figure(seeds, column.key), figure(seeds, column.beside or "")
        if value and floor and value.mean <= floor.mean:
            best.add(name)
        elif value and floor and value.mean - 2 * value.noise <= floor.mean:
            near.add(name)
    return best, near


def _ordered(names: Mapping[str, Any]) -> list[str]:
    return [n for n in METHODS if n in names] + [n for n in names if n not in METHODS]


def _counts(seeds: Sequence[Row]) -> str:
    keys = ("n_images", "n_faithfulness", "n_sensitivity", "n_mprt")
    return " / ".join(str(max(row.get(key) or 0 for row in seeds) or NONE) for key in keys)


def _scenes(rows: Mapping[str, Sequence[Row]]) -> str:
    """How many scenes, and which methods had fewer."""
    counts = {name: seeds[0]["n_images"] for name, seeds in rows.items()}
    most = max(counts.values(), default=0)
    fewer = ", ".join(f"{METHODS.get(name, name)} {n}" for name, n in counts.items() if n < most)
    hidden = max((seeds[0].get("n_faithfulness") or 0 for seeds in rows.values()), default=0)
    first = f"{most} test scenes" + (f" ({fewer}, for what they cost)" if fewer else "")
    return f"{first}; insertion − deletion on the first {min(most, hidden)} of them"


def _evidence(facts: Row) -> dict[str, str]:
    planted, moved = facts.get("truth") or [], (facts.get("evidence") or {}).get("standard", {})
    accuracy = (facts.get("test_accuracy") or {}).get("standard", {})
    rest = {k: v for k, v in moved.items() if k not in (*planted, "truth_changed", "rest_changed")}
    truth = moved.get("truth_changed")
    one_by_one = ", ".join(f"{factor} {value:.2f}" for factor, value in rest.items())
    return {
        "region": " + ".join(planted) or "none planted",
        "accuracy": ", ".join(f"{factor} {share:.1%}" for factor, share in accuracy.items()) or NONE,
        "truth": NONE if truth is None else f"{truth:.2f}",
        "rest": f"{moved['rest_changed']:.2f}" if "rest_changed" in moved else one_by_one or NONE,
        **{
            key: NONE if (share := facts.get(key)) is None else f"{share:.1%}"
            for key in ("needed_area", "needed_inside_region", "region_area")
        },
    }
