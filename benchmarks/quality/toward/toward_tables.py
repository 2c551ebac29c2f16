"""Tables of `python -m benchmarks.toward`: how well masks toward a target work on pairs, and what they cost.

python -m benchmarks.toward_tables      write the tables of docs/toward.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.common.estimate import Seeds, groups, milliseconds
from benchmarks.common.markdown import Result, Row, load, made, records, write_page

Rows = Sequence[Row]

PAGE = "toward.md"
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
GOALS: dict[str, tuple[str, Callable[[Seeds], float]]] = {
    "same object": ("inside − outside ≥ 0.5", lambda of: of["difference"].mean - 0.5),
    "bare photograph": ("inside ≤ 0.1", lambda of: 0.1 - of["inside"].mean),
    "unrelated photograph": ("inside ≤ 0.15", lambda of: 0.15 - of["inside"].mean),
    "other object": ("inside ≤ 0.2", lambda of: 0.2 - of["inside"].mean),
    "u": ("≥ area + 0.40", lambda of: of["share"].mean - of["area"].mean - 0.40),
    "v": ("≤ area − 0.15", lambda of: of["area"].mean - 0.15 - of["share"].mean),
}
"""What is asked → words of its goal, and by how much the goal is exceeded."""
SELF = {
    "relevance_rank": ("rank", -0.02),
    "insertion_minus_deletion": ("insertion − deletion", -0.02),
    "relevance_mass": ("mass", -0.05),
}
"""Title of a figure, and what the difference must be above."""
EXPLAINED = """\
All of them explain the centred cosine of the image's embedding and the target.  *Second order*: inner
products of the cells of both images' last maps, summed over the other's cells; it needs an embedding that is
a mean over cells.  *Nearest masks*: of 1000 random masks, the mean of those that leave the image nearest to
the target less that of the farthest.
"""
MASKERS = "encoder: {encoder} | masker: {masker} | seed: {seed} | steps: {steps} | batch: {batch_size}"
TARGETS = """
asked for: {title} | inside: {inside:.2f} | outside: {outside:.2f} | inside − outside: {difference:.2f} |
control, inside / outside: {control_inside:.2f} / {control_outside:.2f} | goal: {goal}
"""
MIXTURES = """
mask: {mask} | asked for: {title} | share in the region: {share:.2f} | pooled: {pooled:.2f} |
control: {control_share:.2f} | area: {area.mean:.2f} | mean mask: {mask_mean:.2f} | mixtures: {n.mean:.0f} |
goal: {goal}
"""
BASELINES = """
method: {method} | mass in the region: {relevance_mass:.3f} | rank: {relevance_rank:.3f} |
pointing: {pointing_game:.3f} | AUC: {roc_auc:.3f} | ours − it, mass: {beyond[relevance_mass]} |
ours − it, AUC: {beyond[roc_auc]} | images: {n.mean:.0f}
"""
TIMING = """
method: {method} | seconds an image: {seconds_per_image:.4f} |
to ours in onnxruntime: {to_onnxruntime} × | to ours in PyTorch: {to_torch} ×
"""
SELVES = """
encoder: {encoder} | figure: {figure} | difference: {difference:+.3f} |
95 %, by image: {low:+.3f} to {high:+.3f} | standard error with the seeds' spread: {error_seeds:.3f} |
seeds: {seeds[0]} and {seeds[1]} | images: {images} | goal: above {limit}: {reached}
"""
PLANTED = """
shared digit: {shared} | of the mass on digits, on it (goal ≥ 0.85): {on_shared:.2f} |
control: {control:.2f} | mass on it: {mass:.2f} | self-mask of encoder `red`: {self_mass:.2f} |
apart (goal within 0.05): {apart:.2f} | mean mask: {mask_mean:.2f} | seeds: {seeds} | pairs: {n.mean:.0f}
"""
COSTS = """
model: {model} | graph: {variant} | median, ms: {median} | p95, ms: {p95} |
to the encoder (95 %): {ratio_to_encoder:.3f} ({ratio_ci[0]:.3f} to {ratio_ci[1]:.3f}) | rounds: {n}
"""


def targets(rows: Rows) -> str:
    """Level of the masks inside and outside the object, for each target on one encoder."""
    return records([_asked(of, ASKED) for of in groups(rows, "asked")], TARGETS)


def mixtures(rows: Rows, optimum: Rows) -> str:
    """Share of the mask in the region, for each target on one encoder."""
    lines = [_asked(of, SHARES) for of in groups([*rows, *optimum], "method", "asked")]
    for of in lines:
        steps = of["steps"]
        of["mask"] = f"a mask optimised for each mixture, {steps.mean:.0f} steps" if steps else of["method"]
    return records(lines, MIXTURES)


def _asked(of: Seeds, titles: Mapping[str, str]) -> Seeds:
    of["title"], of["goal"] = titles[of["asked"]], ""
    if of["asked"] in GOALS:
        words, beyond = GOALS[of["asked"]]
        of["goal"] = f"{words}: {_yes(beyond(of) >= 0)}"
    return of


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def baselines(rows: Rows, pairs: Rows) -> str:
    """Every method on one encoder and task, and ours less it, ± two standard errors."""
    lines = groups(rows, "method")
    for of in lines:
        of["beyond"] = {
            one["metric"]: f"{one['difference']:+.3f} ± {2 * one['error']:.3f}"
            for one in pairs
            if one["against"] == of["method"]
        }
    return records(lines, BASELINES)


def timing(rows: Rows) -> str:
    """Seconds of each method on one encoder."""
    ratios = ("onnxruntime", "torch")
    return records([{**r, **{f"to_{k}": _times(r[f"ratio_{k}"]) for k in ratios}} for r in rows], TIMING)


def _times(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def costs(rows: Rows) -> str:
    """Milliseconds of every model and graph."""
    times = ("median", "p95")
    return records([{**r, **{k: milliseconds(r[f"{k}_ms"]) for k in times}} for r in rows], COSTS)


def selves(rows: Rows) -> str:
    """Masks without a target: maskers trained with targets less those trained without."""
    lines = []
    for row in rows:
        title, limit = SELF[row["metric"]]
        lines.append({**row, "figure": title, "limit": limit, "reached": _yes(row["low"] > limit)})
    return records(lines, SELVES)


def planted(rows: Rows) -> str:
    """Masks of pairs that share one digit."""
    return records(groups(rows, "shared"), PLANTED)


OTHERS = {
    "self_paired": ("Without a target: maskers trained with targets beside maskers trained without", selves),
    "planted": ("Planted pairs, encoder `digits`", planted),
    "cost": ("Cost in onnxruntime, interleaved", costs),
}
"""Sections of all encoders together."""


def of_encoder(result: Result, name: str) -> list[str]:
    """The sections of one encoder; a part that was not run is named."""

    def rows_of(part: str) -> Rows:
        return [row for row in result[part] if row["encoder"] == name]

    parts = []
    if rows := rows_of("targets"):
        parts += [f"## Composites on {name}\n\nMean mask, {rows[0]['n']} composites:\n", targets(rows)]
    if rows := rows_of("mixtures"):
        parts += [f"## Mixtures on {name}\n", mixtures(rows, rows_of("optimum"))]
    if rows := rows_of("baselines"):
        parts += [f"## Other explanations of pairs on {name}\n", EXPLAINED]
        for of in groups(rows, "task"):
            pairs = [one for one in rows_of("paired") if one["task"] == of["task"]]
            title = f"Toward {of['task']} (± of the differences: two standard errors):\n"
            parts += [title, baselines(of.rows, pairs)]
    if rows := rows_of("timing"):
        parts += [f"One after the other in one process, {rows[0]['threads']} thread:\n", timing(rows)]
    return parts


def parts(result: Result) -> dict[str, str]:
    """The tables of docs/toward.md; a part that was not run is left out."""
    sections = [part for name in result["encoders"] for part in of_encoder(result, name)]
    for key, (title, make) in OTHERS.items():
        if result[key]:
            sections += [f"## {title}\n", make(result[key])]
    missing = [part for part in ("targets", "mixtures", "baselines", "cost", "planted") if not result[part]]
    if missing:
        sections.append(f"Not measured: {', '.join(missing)}.\n")
    maskers = records(result["maskers"], MASKERS)
    return {"maskers": f"{made(result['meta'])}\n{maskers}", "results": "\n".join(sections)}


def main() -> Path:
    """Write the page and return its path."""
    return write_page(PAGE, parts(load("toward")))


if __name__ == "__main__":
    print(main())
