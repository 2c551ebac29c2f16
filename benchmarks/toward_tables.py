"""Tables of `python -m benchmarks.toward`: what maskers with targets are worth on pairs, and what they cost.

python -m benchmarks.toward_tables      write docs/toward.md from benchmarks/results/toward.json
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.natural_tables import command_of
from benchmarks.quality_tables import NONE, milliseconds

Row = Mapping[str, Any]
Rows = Sequence[Row]

GOALS = {
    "same object": "inside − outside ≥ 0.5",
    "bare photograph": "inside ≤ 0.1",
    "unrelated photograph": "inside ≤ 0.15",
    "other object": "inside ≤ 0.2",
}
ASKED = {
    "null": "nothing (the control: ignores the target)",
    "itself": "itself",
    "same object": "the same object on another photograph",
    "bare photograph": "the bare photograph",
    "other object": "the same photograph with another object",
    "unrelated photograph": "an unrelated photograph",
    "unrelated composite": "an unrelated composite",
}
SHARES = {"null": "nothing (control)", "u": "u, inside", "v": "v, around", "neither": "neither"}
SHARE_GOALS = {"u": (0.40, "≥ area + 0.40"), "v": (-0.15, "≤ area − 0.15")}
SELF = {
    "relevance_rank": ("rank", -0.02),
    "insertion_minus_deletion": ("insertion − deletion", -0.02),
    "relevance_mass": ("mass", -0.05),
}
LOCALISED = {
    "relevance_mass": "mass in the region",
    "relevance_rank": "rank",
    "pointing_game": "pointing",
    "roc_auc": "AUC",
}
INTRODUCTION = """\
# Why is this like that?  Masks toward a target

Made by `python -m benchmarks.toward_tables`; do not edit.

A masker may be asked for a target, the embedding of another picture: the smallest region of this picture that
looks like it.  Measured where the answer is known: composites of an object and a photograph that training
never saw, and mixtures of two composites by a known region.  ± is the standard deviation over seeds of
training, or, for one seed, the standard error over pictures.  The control beside every row is the same
masker's mask without a target.
"""
METHODS = """\
All of the centred cosine of the image's embedding and the target.  *Second order*: inner products of the
cells of both pictures' last maps, summed over the other's cells; it needs an embedding that is a mean over
cells.  *Nearest masks*: of 1000 random masks, the mean of those that leave the image nearest to the target
less that of the farthest.
"""


def figure(rows: Rows, key: str, form: str = "{:.2f}") -> str:
    """Mean ± the spread over rows, which are seeds; of one row, its standard error."""
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    if not values:
        return NONE
    noise = statistics.stdev(values) if len(values) > 1 else rows[0].get(f"{key}_error")
    mean = form.format(statistics.fmean(values))
    return mean if noise is None else f"{mean} ± {form.format(noise)}"


def targets(rows: Rows) -> str:
    """Of one encoder: the level of masks inside and outside the object."""
    lines = []
    for asked, title in ASKED.items():
        if here := [row for row in rows if row["asked"] == asked]:
            goal = GOALS.get(asked, "")
            reached = _reached(asked, here)
            cells = [figure(here, key) for key in ("inside", "outside", "difference")]
            control = " / ".join(figure(here, f"control_{key}") for key in ("inside", "outside"))
            lines.append([title, *cells, control, goal and f"{goal}: {reached}"])
    titles = ("asked for", "inside", "outside", "inside − outside", "control, inside / outside", "goal")
    return table(titles, lines)


def _reached(asked: str, rows: Rows) -> str:
    key, limit, sign = {
        "same object": ("difference", 0.5, 1),
        "bare photograph": ("inside", 0.1, -1),
        "unrelated photograph": ("inside", 0.15, -1),
        "other object": ("inside", 0.2, -1),
    }.get(asked, ("inside", -math.inf, 1))
    return _yes(sign * (statistics.fmean(row[key] for row in rows) - limit) >= 0)


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def mixtures(rows: Rows, optimum: Rows) -> str:
    """Of one encoder: the share of the mask in the region, by what is asked for."""
    lines = []
    alone = f"a mask optimised for each mixture, {optimum[0]['steps']} steps" if optimum else ""
    for who, of in (("nemu", rows), (alone, optimum)):
        for asked, title in SHARES.items():
            if here := [row for row in of if row["asked"] == asked]:
                area = statistics.fmean(row["area"] for row in here)
                goal = ""
                if asked in SHARE_GOALS:
                    shift, words = SHARE_GOALS[asked]
                    share = statistics.fmean(row["share"] for row in here)
                    goal = f"{words}: {_yes((share - area - shift) * shift >= 0)}"
                cells = [figure(here, key) for key in ("share", "pooled", "control_share")]
                lines.append(
                    [who, title, *cells, f"{area:.2f}", figure(here, "mask_mean"), str(here[0]["n"]), goal]
                )
    titles = (
        *("mask", "asked for", "share in the region", "pooled", "control", "area", "mean mask"),
        *("mixtures", "goal"),
    )
    return table(titles, lines)


def baselines(rows: Rows, pairs: Rows) -> str:
    """Of one encoder and task: every method, and ours less it, ± two standard errors."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        here = [row for row in rows if row["method"] == method]
        cells = [figure(here, key, "{:.3f}") for key in LOCALISED]
        apart = {one["metric"]: one for one in pairs if one["against"] == method}
        beyond = [
            f"{apart[key]['difference']:+.3f} ± {2 * apart[key]['error']:.3f}" if key in apart else NONE
            for key in ("relevance_mass", "roc_auc")
        ]
        lines.append([method, *cells, *beyond, str(here[0]["n"])])
    return table(("method", *LOCALISED.values(), "ours − it, mass", "ours − it, AUC", "pictures"), lines)


def timing(rows: Rows) -> str:
    """Of one encoder."""
    lines = [
        [
            row["method"],
            f"{row['seconds_per_image']:.4f}",
            *(
                f"{row[key]:.2g} ×" if row[key] < 10 else f"{row[key]:.0f} ×"
                for key in ("ratio_onnxruntime", "ratio_torch")
            ),
        ]
        for row in rows
    ]
    return table(("method", "seconds an image", "to ours in onnxruntime", "to ours in PyTorch"), lines)


def costs(rows: Rows) -> str:
    """Every model and graph."""
    lines = []
    for row in rows:
        ratio, interval = row["ratio_to_encoder"], row["ratio_ci"]
        shown = NONE if ratio is None else f"{ratio:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
        times = (milliseconds(row[key]) for key in ("median_ms", "p95_ms"))
        lines.append([row["model"], row["variant"], *times, shown, str(row["n"])])
    return table(("model", "graph", "median, ms", "p95, ms", "to the encoder (95 %)", "rounds"), lines)


def selves(rows: Rows) -> str:
    """Maskers with targets less those without."""
    lines = []
    for row in rows:
        title, limit = SELF[row["metric"]]
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        goal = f"above {limit}: {_yes(row['low'] > limit)}"
        seeds = " and ".join(map(str, row["seeds"]))
        noise, pictures = f"{row['error_seeds']:.3f}", str(row["images"])
        difference = f"{row['difference']:+.3f}"
        lines.append([row["encoder"], title, difference, interval, noise, seeds, pictures, goal])
    titles = (
        *("encoder", "figure", "difference", "95 %, by picture", "standard error with the seeds' spread"),
        *("seeds", "pictures", "goal"),
    )
    return table(titles, lines)


def planted(rows: Rows) -> str:
    """Pairs that share one digit."""
    lines = []
    for shared in dict.fromkeys(row["shared"] for row in rows):
        here = [row for row in rows if row["shared"] == shared]
        keys = ("on_shared", "control", "mass", "self_mass", "apart", "mask_mean")
        lines.append([shared, *(figure(here, key) for key in keys), str(len(here)), str(here[0]["n"])])
    titles = (
        *("shared digit", "of the mass on digits, on it (goal ≥ 0.85)", "control", "mass on it"),
        *("self-mask of encoder `red`", "apart (goal within 0.05)", "mean mask", "seeds", "pairs"),
    )
    return table(titles, lines)


def page(result: Mapping[str, Any]) -> str:
    """docs/toward.md; a part that was not run is left out, and named at the end."""
    names = list(result["encoders"])
    device = str(result["meta"]["device"]).partition(";")[0]
    parts = [INTRODUCTION, f"On {device}\n(`{command_of(result)}`).\n", *_maskers(result)]

    def of(part: str, name: str) -> Rows:
        return [row for row in result[part] if row["encoder"] == name]

    for name in names:
        if rows := of("targets", name):
            parts += [f"## Composites on {name}\n\nMean mask, {rows[0]['n']} composites:\n", targets(rows)]
        if rows := of("mixtures", name):
            parts += [f"## Mixtures on {name}\n", mixtures(rows, of("optimum", name))]
        if rows := of("baselines", name):
            parts += [f"## Other explanations of pairs on {name}\n", METHODS]
            for task in dict.fromkeys(row["task"] for row in rows):
                pairs = [one for one in of("paired", name) if one["task"] == task]
                here = [row for row in rows if row["task"] == task]
                parts += [f"Toward {task} (± of the differences: two standard errors):\n"]
                parts += [baselines(here, pairs)]
        if rows := of("timing", name):
            parts += [f"One after the other in one process, {rows[0]['threads']} thread:\n", timing(rows)]
    for key, title, make in (
        ("self_paired", "Without a target: maskers that take one beside maskers that take none", selves),
        ("planted", "Planted pairs, encoder `digits`", planted),
        ("cost", "Cost in onnxruntime, interleaved", costs),
    ):
        if result[key]:
            parts += [f"## {title}\n", make(result[key])]
    missing = [part for part in ("targets", "mixtures", "baselines", "cost", "planted") if not result[part]]
    return "\n".join([*parts, *([f"Not measured: {', '.join(missing)}.\n"] if missing else [])])


def _maskers(result: Mapping[str, Any]) -> Iterable[str]:
    lines = [
        [row["encoder"], row["masker"], str(row["seed"]), str(row["steps"]), str(row["batch_size"])]
        for row in result["maskers"]
    ]
    yield table(("encoder", "masker", "seed", "steps", "batch"), lines)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    result = json.loads((root / "benchmarks/results/toward.json").read_text())
    (root / "docs/toward.md").write_text(page(result))
