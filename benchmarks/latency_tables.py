"""What a mask costs, as Markdown: the frontier of decoders, and a package's latency beside its peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import table

Row = dict[str, Any]
TITLES = {
    "encoder": "encoder alone",
    "control": "encoder alone, a second session (control)",
    "fused": "**encoder + mask, fused**",
    "authors_decoder": "encoder + the authors' decoder, fused",
    "authors_way": "the authors' way: eager, the encoder run twice",
    "authors_one_pass": "eager, the authors' decoder, one pass",
    "eager": "eager, our decoder, one pass",
    "compiled": "torch.compile, our decoder",
    "relax": "RELAX, 3000 masks (one batch of 100 timed)",
    "from_array": "Explainer, from an array of the right size",
    "from_jpeg": "Explainer, from a JPEG of 600 × 400",
}


def frontier(result: Row) -> str:
    """Every decoder: its cost on both encoders, its quality and the difference to the authors'."""
    cost = {(row["model"], row["variant"]): row for row in result["rows"]}
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    found = {(c["decoder"], c["kind"], c["metric"]): c for c in result["comparisons"]}
    decoders = list(dict.fromkeys(c["decoder"] for c in result["comparisons"]))
    kinds = list(dict.fromkeys(c["kind"] for c in result["comparisons"]))
    metrics = (("relevance_rank", "rank"), ("insertion_minus_deletion", "insertion − deletion"))
    titles = ["decoder", *(f"× encoder, {m}" for m in models)]
    titles += [f"{name}, {kind}" for name, _ in ((n, m) for m, n in metrics) for kind in kinds]
    cells = [
        (
            f"`{decoder}`",
            *(_ratio(cost[model, decoder]) for model in models),
            *(_quality(found[decoder, kind, metric]) for metric, _ in metrics for kind in kinds),
        )
        for decoder in decoders
    ]
    control = ", ".join(f"{m} {_ratio(cost[m, 'control'])}" for m in models)
    return table(titles, cells) + f"\nControl (the encoder against itself, same runs): {control}.\n"


def latency(result: Row, *, groups: Sequence[str]) -> str:
    """Rows of some groups of one package."""
    cells = [
        (
            f"{row['backend']} {row['precision']}",
            TITLES[row["variant"]],
            f"{row['median_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            _ratio(row) if row["ratio_to_encoder"] else "–",
            _times(row),
            str(row["n"]),
        )
        for row in result["rows"]
        if row["group"] in groups
    ]
    titles = ("runs in", "what", "median, ms", "p99, ms", "× encoder", "faster than the authors' way", "n")
    return table(titles, cells)


def _ratio(row: Row) -> str:
    if row["ratio_to_encoder"] is None:
        return "–"
    low, high = row["ratio_ci"]
    return f"{row['ratio_to_encoder']:.3f} ({low:.3f} to {high:.3f})"


def _times(row: Row) -> str:
    gain = row.get("faster_than_authors_way")
    return f"{gain:.1f} × ({row['faster_ci'][0]:.1f} to {row['faster_ci'][1]:.1f})" if gain else "–"


def _quality(found: Row) -> str:
    mean = f"{found['mean']:.3f}" + (f" ± {found['spread']:.3f}" if found["spread"] is not None else "")
    if found["decoder"] == "unet":
        return mean
    low, high = found["difference_ci"]
    return f"{mean} ({low:+.3f} to {high:+.3f}{'' if found['not_inferior'] else ' ✗'})"
