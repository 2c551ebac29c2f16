"""Tables of what `python -m benchmarks.quality` wrote; what was not run is left out or `–`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

from benchmarks.common.estimate import Seeds, best_and_near, figure, groups
from benchmarks.common.markdown import NONE, Result, Row, cell, records

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
KINDS = ("small", "unseen")
CONTROLS = ("centre", "random", "nemu_order", "optimised")
"""They do not compete for the best of a column: they ignore the encoder, or repeat ours or its limit."""
METRICS = {
    "relevance_rank": "relevance rank ↑",
    "rank_corrected": "corrected rank ↑",
    "relevance_mass": "mass ↑",
    "pointing_game": "pointing ↑",
    "roc_auc": "AUC ↑",
    "complexity": "complexity (entropy) ↓",
    "sparseness": "sparseness ↑",
    "insertion_minus_deletion": "insertion − deletion ↑",
    "sensitivity": "sensitivity ↓",
    "mprt_abs_rho": "MPRT abs ρ ↓ (floor)",
    "ms": "ms per image ↓",
}
"""Titles of the figures of every method."""
LEVELS = {
    "mask_inside": "mask inside",
    "mask_outside": "mask outside",
    "area_ratio": "area / region's",
    "cosine_kept": "cosine kept, photograph",
    "cosine_kept_mean_fill": "cosine kept, mean colour",
    "train_seconds": "training, s",
}
"""Titles of the figures of masks."""
MPRT = "mprt_abs_rho"
FORMS = {
    "complexity": "{complexity:.2f}",
    "mprt_abs_rho": "{mprt_abs_rho:.3f} ({mprt_floor.mean:.3f})",
    "ms": "{ms:ms}",
    "area_ratio": "{area_ratio:.2f}",
    "train_seconds": "{train_seconds:.0f}",
}
"""Figures that are not shown as `mean ± noise` with three digits."""
LOWER = ("complexity", "sensitivity", "ms", "mask_outside")
"""Less is better."""
EVIDENCE = """
encoder: {encoder} | region: {region} | accuracy: {accuracy} |
moves when the truth changes: {truth_changed:.2f} | when all else changes: {rest} |
image needed: {needed_area:.1%} | of it in the region: {needed_inside_region:.1%} |
region's area: {region_area:.1%}
"""


def columns(*keys: str) -> dict[str, str]:
    """Title → template of some figures."""
    return {(METRICS | LEVELS)[key]: FORMS.get(key, f"{{{key}:.3f}}") for key in keys}


FULL = columns(*METRICS)
SHORT = columns("relevance_rank", "relevance_mass", "complexity", "insertion_minus_deletion", "ms")
WEIGHT = columns(
    *("relevance_rank", "relevance_mass", "mask_inside", "mask_outside", "cosine_kept"),
    "insertion_minus_deletion",
)
ABLATION = columns(
    *("relevance_rank", "relevance_mass", "mask_inside", "mask_outside", "area_ratio", "cosine_kept"),
    "insertion_minus_deletion",
)


def encoders_of(result: Result) -> list[str]:
    """Names of the encoders that have rows."""
    return list(dict.fromkeys(row["encoder"] for row in result["rows"]))


def scored(result: Result, encoder: str, kind: str = "standard") -> dict[str, Seeds]:
    """Figures of each method, in order, with `ms` and `area_ratio` added."""
    return _methods(_derived(r) for r in result["rows"] if (r["encoder"], r["kind"]) == (encoder, kind))


def _methods(rows: Iterable[Row]) -> dict[str, Seeds]:
    """Figures of each method, in order, and its title."""
    found = {of["method"]: of for of in groups(rows, "method")}
    return {name: Seeds(found[name].rows, method=METHODS.get(name, name)) for name in _ordered(found)}


def evidence(result: Result) -> str:
    """What each encoder looks at, measured by changing one part of the scene."""
    return records([_evidence(name, facts) for name, facts in result["encoders"].items()], EVIDENCE)


def comparison(methods: Mapping[str, Seeds], columns: Mapping[str, str], *, images: bool = True) -> str:
    """Methods × metrics; the best bold, what is within noise of it marked.

    Args:
        columns: title → template, of which the first field is what methods are compared by.
        images: also give numbers of seeds and of images.
    """
    lines = {name: {"method": of["method"]} for name, of in methods.items()}
    ranked = {name: of for name, of in methods.items() if name not in CONTROLS}
    for title, form in columns.items():
        key = form[1 : form.index(":")]
        figures = {name: of[key] for name, of in ranked.items()}
        best, near = best_and_near(figures, lower=key in LOWER) if key != MPRT else _at_floor(ranked)
        for name, of in methods.items():
            text = cell(of, form)
            lines[name][title] = f"**{text}**" if name in best else f"≈ {text}" if name in near else text
    titles = ["method", *columns]
    if images:
        titles += ["seeds", "images"]
        for name, of in methods.items():
            lines[name] |= {"seeds": of["seeds"], "images": _counts(of.rows)}
    return records(lines.values(), {title: title for title in titles})


def masks(result: Result) -> str:
    """What the level of the trained masks means, and what their training cost."""
    lines = []
    for encoder in encoders_of(result):
        methods = scored(result, encoder)
        for of in methods.values():
            if of["train_seconds"]:
                even = break_even(of, methods.get("relax", Seeds([])))
                lines.append(Seeds(of.rows, encoder=encoder, masker=of["method"], even=even))
    shown = {"encoder": "encoder", "masker": "masker", **columns(*LEVELS)}
    return records(lines, {**shown, "break-even, images": "even"}) if lines else ""


def break_even(masker: Seeds, relax: Seeds) -> str:
    """Number of images after which training has cost no more than RELAX would have."""
    trained, own, other = masker["train_seconds"], masker["ms"], relax["ms"]
    if not trained or not own or not other or own.mean >= other.mean:
        return NONE
    return str(math.ceil(1000 * trained.mean / (other.mean - own.mean)))


def kinds(result: Result, encoder: str) -> str:
    """Scenes with small digits, and with clutter that training never shows; empty if none was run."""
    shown: dict[str, str] = {}
    rows: list[Row] = []
    for kind in KINDS:
        for key in ("rank_corrected", "relevance_mass"):
            shown[f"{kind}: {METRICS[key]}"] = f"{{{kind} {key}:.3f}}"
        for row in (row for of in scored(result, encoder, kind).values() for row in of.rows):
            rows.append({"method": row["method"], **{f"{kind} {k}": v for k, v in row.items()}})
    return comparison(_methods(rows), shown, images=False) if rows else ""


def region_areas(result: Result, encoder: str) -> str:
    """The region's share of a scene for each kind that was run; a flat map has this mass."""
    areas = {
        kind: figure([row for of in scored(result, encoder, kind).values() for row in of.rows], "region_area")
        for kind in KINDS
    }
    return ", ".join(f"{f.mean:.1%} of a scene ({kind})" for kind, f in areas.items() if f)


def ablation(result: Result) -> str:
    """Trainings × metrics on encoder `digits`, mean ± standard deviation over seeds."""
    methods, lines = scored(result, "digits"), []
    for name, options in result["settings"].items():
        if name in methods:
            given = f"`{shlex.join(options)}`" if options else "(defaults)"
            lines.append(Seeds(methods[name].rows, method=methods[name]["method"], options=given))
    return records(lines, {"setting": "method", "options": "options", **ABLATION, "seeds": "seeds"})


def compact(result: Result) -> str:
    """A short table for encoder `digits`, and a link to the page with the others."""
    methods = scored(result, "digits")
    others = ", ".join(name for name in encoders_of(result) if name != "digits")
    return (
        f"Encoder `digits`, standard scenes.  {_scenes(methods)}.  ± is the standard deviation over seeds of "
        "training, or else the standard error over images; ≈ is within noise of the best.  Controls do not "
        "compete.\n\n"
        f"{comparison(methods, SHORT, images=False)}\n"
        f"Also for the encoders {others}, with the other metrics and what they mean: "
        "[quality.md](quality.md).\n"
    )


def _derived(row: Row) -> Row:
    seconds, area, region = (row.get(k) for k in ("seconds_per_image", "mask_area", "region_area"))
    return {
        **row,
        "ms": None if seconds is None else 1000 * seconds,
        "area_ratio": None if area is None or not region else area / region,
    }


def _at_floor(methods: Mapping[str, Seeds]) -> tuple[set[str], set[str]]:
    """Methods at or below MPRT's floor, which is the best possible value, and those within noise of it."""
    known = {name: (of[MPRT], of["mprt_floor"]) for name, of in methods.items() if of[MPRT]}
    best = {name for name, (rho, floor) in known.items() if rho.mean <= floor.mean}
    near = {name for name, (rho, floor) in known.items() if rho.mean - 2 * rho.noise <= floor.mean}
    return best, near - best


def _ordered(names: Collection[str]) -> list[str]:
    return [n for n in METHODS if n in names] + [n for n in names if n not in METHODS]


def _counts(seeds: Sequence[Row]) -> str:
    keys = ("n_images", "n_faithfulness", "n_sensitivity", "n_mprt")
    return " / ".join(str(max(row.get(key) or 0 for row in seeds) or NONE) for key in keys)


def _scenes(methods: Mapping[str, Seeds]) -> str:
    """How many scenes, and which methods had fewer."""
    counts = {of["method"]: of.rows[0]["n_images"] for of in methods.values()}
    most = max(counts.values(), default=0)
    fewer = ", ".join(f"{title} {n}" for title, n in counts.items() if n < most)
    hidden = max((of.rows[0].get("n_faithfulness") or 0 for of in methods.values()), default=0)
    first = f"{most} test scenes" + (f" ({fewer}, for what they cost)" if fewer else "")
    return f"{first}; insertion − deletion on the first {min(most, hidden)} of them"


def _evidence(encoder: str, facts: Row) -> Row:
    planted, moved = facts.get("truth") or [], (facts.get("evidence") or {}).get("standard", {})
    accuracy = (facts.get("test_accuracy") or {}).get("standard", {})
    rest = {k: f"{v:.2f}" for k, v in moved.items() if k not in (*planted, "truth_changed")}
    return {
        **facts,
        **moved,
        "encoder": encoder,
        "region": " + ".join(planted) or "none planted",
        "accuracy": ", ".join(f"{factor} {share:.1%}" for factor, share in accuracy.items()) or NONE,
        "rest": rest.get("rest_changed") or ", ".join(f"{k} {v}" for k, v in rest.items()) or NONE,
    }
