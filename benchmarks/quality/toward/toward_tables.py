"""Tables of `python -m benchmarks.toward`: how well masks toward a target work on pairs, and what they cost.

python -m benchmarks.toward_tables      write the tables of docs/toward.md
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.markdown import NONE, Result, Row, interval, load, made, records, write_page
from benchmarks.quality.quality_tables import Column, milliseconds

Rows = Sequence[Row]

PAGE = "toward.md"
GOALS = {
    "same object": ("difference", 0.5, "inside − outside ≥ 0.5"),
    "bare photograph": ("inside", -0.1, "inside ≤ 0.1"),
    "unrelated photograph": ("inside", -0.15, "inside ≤ 0.15"),
    "other object": ("inside", -0.2, "inside ≤ 0.2"),
}
"""Key, limit and words of a goal; a negative limit is one that the value must not exceed."""
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
EXPLAINED = """\
All of them explain the centred cosine of the image's embedding and the target.  *Second order*: inner
products of the cells of both images' last maps, summed over the other's cells; it needs an embedding that is
a mean over cells.  *Nearest masks*: of 1000 random masks, the mean of those that leave the image nearest to
the target less that of the farthest.
"""


def figure(rows: Rows, key: str, form: str = "{:.2f}") -> str:
    """Mean ± the standard deviation over rows (one a seed), or ± the standard error of one row."""
    return Column(key=key, title="", form=form.format).cell(rows)


def targets(rows: Rows) -> str:
    """Level of the masks inside and outside the object, for each target on one encoder."""
    lines = []
    for asked, title in ASKED.items():
        if here := [row for row in rows if row["asked"] == asked]:
            line = {key: figure(here, key) for key in ("inside", "outside", "difference")}
            line["control"] = " / ".join(figure(here, f"control_{key}") for key in ("inside", "outside"))
            lines.append({"asked": title, **line, "goal": _goal(asked, here)})
    columns = {"asked for": "asked", "inside": "inside", "outside": "outside"}
    columns |= {"inside − outside": "difference", "control, inside / outside": "control", "goal": "goal"}
    return records(lines, columns)


def _goal(asked: str, rows: Rows) -> str:
    if asked not in GOALS:
        return ""
    key, limit, words = GOALS[asked]
    value = statistics.fmean(row[key] for row in rows)
    return f"{words}: {_yes(value <= -limit if limit < 0 else value >= limit)}"


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def mixtures(rows: Rows, optimum: Rows) -> str:
    """Share of the mask in the region, for each target on one encoder."""
    lines = []
    per_image = f"a mask optimised for each mixture, {optimum[0]['steps']} steps" if optimum else ""
    for who, found in (("nemu", rows), (per_image, optimum)):
        for asked, title in SHARES.items():
            if here := [row for row in found if row["asked"] == asked]:
                area = statistics.fmean(row["area"] for row in here)
                line = {key: figure(here, key) for key in ("share", "pooled", "control_share", "mask_mean")}
                line |= {"mask": who, "asked": title, "area": f"{area:.2f}", "n": here[0]["n"], "goal": ""}
                if asked in SHARE_GOALS:
                    shift, words = SHARE_GOALS[asked]
                    share = statistics.fmean(row["share"] for row in here)
                    line["goal"] = f"{words}: {_yes((share - area - shift) * shift >= 0)}"
                lines.append(line)
    columns = {"mask": "mask", "asked for": "asked", "share in the region": "share", "pooled": "pooled"}
    columns |= {"control": "control_share", "area": "area", "mean mask": "mask_mean", "mixtures": "n"}
    return records(lines, {**columns, "goal": "goal"})


def baselines(rows: Rows, pairs: Rows) -> str:
    """Every method on one encoder and task, and ours less it, ± two standard errors."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        here = [row for row in rows if row["method"] == method]
        line = {key: figure(here, key, "{:.3f}") for key in LOCALISED}
        apart = {one["metric"]: one for one in pairs if one["against"] == method}
        for key in ("relevance_mass", "roc_auc"):
            known = apart.get(key)
            line[f"beyond {key}"] = (
                f"{known['difference']:+.3f} ± {2 * known['error']:.3f}" if known else NONE
            )
        lines.append({"method": method, **line, "n": str(here[0]["n"])})
    columns = {"method": "method", **{title: key for key, title in LOCALISED.items()}}
    columns |= {"ours − it, mass": "beyond relevance_mass", "ours − it, AUC": "beyond roc_auc"}
    return records(lines, {**columns, "images": "n"})


def timing(rows: Rows) -> str:
    """Seconds of each method on one encoder."""
    return records(
        rows,
        {
            "method": "method",
            "seconds an image": lambda r: f"{r['seconds_per_image']:.4f}",
            "to ours in onnxruntime": lambda r: _times(r["ratio_onnxruntime"]),
            "to ours in PyTorch": lambda r: _times(r["ratio_torch"]),
        },
    )


def _times(ratio: float) -> str:
    return f"{ratio:.2g} ×" if ratio < 10 else f"{ratio:.0f} ×"


def costs(rows: Rows) -> str:
    """Milliseconds of every model and graph."""
    return records(
        rows,
        {
            "model": "model",
            "graph": "variant",
            "median, ms": lambda r: milliseconds(r["median_ms"]),
            "p95, ms": lambda r: milliseconds(r["p95_ms"]),
            "to the encoder (95 %)": lambda r: interval(r["ratio_to_encoder"], r["ratio_ci"]),
            "rounds": "n",
        },
    )


def selves(rows: Rows) -> str:
    """Masks without a target: maskers trained with targets less those trained without."""
    return records(
        rows,
        {
            "encoder": "encoder",
            "figure": lambda r: SELF[r["metric"]][0],
            "difference": lambda r: f"{r['difference']:+.3f}",
            "95 %, by image": lambda r: f"{r['low']:+.3f} to {r['high']:+.3f}",
            "standard error with the seeds' spread": lambda r: f"{r['error_seeds']:.3f}",
            "seeds": lambda r: " and ".join(map(str, r["seeds"])),
            "images": "images",
            "goal": lambda r: f"above {SELF[r['metric']][1]}: {_yes(r['low'] > SELF[r['metric']][1])}",
        },
    )


def planted(rows: Rows) -> str:
    """Masks of pairs that share one digit."""
    lines = []
    columns = {
        "of the mass on digits, on it (goal ≥ 0.85)": "on_shared",
        "control": "control",
        "mass on it": "mass",
        "self-mask of encoder `red`": "self_mass",
        "apart (goal within 0.05)": "apart",
        "mean mask": "mask_mean",
    }
    for shared in dict.fromkeys(row["shared"] for row in rows):
        here = [row for row in rows if row["shared"] == shared]
        cells = {key: figure(here, key) for key in columns.values()}
        lines.append({"shared": shared, **cells, "seeds": str(len(here)), "n": str(here[0]["n"])})
    return records(lines, {"shared digit": "shared", **columns, "seeds": "seeds", "pairs": "n"})


def of_encoder(result: Result, name: str) -> list[str]:
    """The sections of one encoder; a part that was not run is left out."""

    def rows_of(part: str) -> Rows:
        return [row for row in result[part] if row["encoder"] == name]

    parts = []
    if rows := rows_of("targets"):
        parts += [f"## Composites on {name}\n\nMean mask, {rows[0]['n']} composites:\n", targets(rows)]
    if rows := rows_of("mixtures"):
        parts += [f"## Mixtures on {name}\n", mixtures(rows, rows_of("optimum"))]
    if rows := rows_of("baselines"):
        parts += [f"## Other explanations of pairs on {name}\n", EXPLAINED]
        for task in dict.fromkeys(row["task"] for row in rows):
            pairs = [one for one in rows_of("paired") if one["task"] == task]
            here = [row for row in rows if row["task"] == task]
            parts += [f"Toward {task} (± of the differences: two standard errors):\n", baselines(here, pairs)]
    if rows := rows_of("timing"):
        parts += [f"One after the other in one process, {rows[0]['threads']} thread:\n", timing(rows)]
    return parts


def parts(result: Result) -> dict[str, str]:
    """The tables of docs/toward.md; a part that was not run is named at the end."""
    sections = [part for name in result["encoders"] for part in of_encoder(result, name)]
    for key, title, make in (
        (
            "self_paired",
            "Without a target: maskers trained with targets beside maskers trained without",
            selves,
        ),
        ("planted", "Planted pairs, encoder `digits`", planted),
        ("cost", "Cost in onnxruntime, interleaved", costs),
    ):
        if result[key]:
            sections += [f"## {title}\n", make(result[key])]
    missing = [part for part in ("targets", "mixtures", "baselines", "cost", "planted") if not result[part]]
    if missing:
        sections.append(f"Not measured: {', '.join(missing)}.\n")
    columns = {key: key for key in ("encoder", "masker", "seed", "steps")}
    maskers = records(result["maskers"], {**columns, "batch": "batch_size"})
    return {"maskers": f"{made(result['meta'])}\n{maskers}", "results": "\n".join(sections)}


def main() -> Path:
    """Write the page and return its path."""
    return write_page(PAGE, parts(load("toward")))


if __name__ == "__main__":
    print(main())
