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
    """Every decoder: its cost on both models, its quality and the difference to the authors'."""
    cost = {(row["model"], row["variant"]): row for row in result["rows"]}
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    found = {(c["encoder"], c["decoder"], c["kind"], c["metric"]): c for c in result["comparisons"]}
    scored = list(dict.fromkeys((c["encoder"], c["decoder"]) for c in result["comparisons"]))
    kinds = list(dict.fromkeys(c["kind"] for c in result["comparisons"]))
    metrics = {"relevance_rank": "rank", "insertion_minus_deletion": "insertion − deletion"}
    titles = ["scored on", "decoder", *(f"× encoder, {m}" for m in models)]
    titles += [f"{name}, {kind}" for name in metrics.values() for kind in kinds]
    cells = [
        (
            encoder,
            f"`{decoder}`",
            *(_ratio(cost[model, decoder]) for model in models),
            *(_quality(found[encoder, decoder, kind, metric]) for metric in metrics for kind in kinds),
        )
        for encoder, decoder in scored
    ]
    control = ", ".join(f"{m} {_ratio(cost[m, 'control'])}" for m in models)
    said = f"\nControl (the encoder against itself, same runs): {control}.\n" if models else ""
    return table(titles, cells) + said


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


def training(result: Row) -> str:
    """Images per second of every variant against the authors' loop."""
    names = {
        "authors_loop": "the authors' loop",
        "our_loop": "ours",
        "our_loop_authors_decoder": "ours with their decoder",
        "our_loop_authors_objective": "ours with their objective",
        "our_loop_authors_decoder_and_objective": "ours with their decoder and objective",
    }
    cells = []
    for row in result["rows"]:
        low, high = row["ratio_ci"] or (None, None)
        interval = f" ({low:.2f} to {high:.2f})" if low != high else ""
        cells.append(
            (
                names[row["variant"]],
                f"{row['images_per_second']:.2f}",
                f"{row['ratio_to_authors_loop']:.2f}{interval}",
            )
        )
    return table(("loop", "images/s, median", "× the authors'"), cells)


def runtime_cost(result: Row) -> str:
    """What the Explainer adds to its backend, a stream, and a cold start."""
    rows = {row["variant"]: row for row in result["rows"]}
    titles = {
        "control": "control: the backend against itself",
        "graph size": "a picture that needs no resizing",
        "resized": "a picture of the grid's own size, which the encoder's transform enlarges",
    }
    cells = []
    for variant, title in titles.items():
        if row := rows.get(variant):
            low, high = row["overhead_ms_ci"]
            cells.append(
                (
                    title,
                    f"{row['backend_median_ms']:.1f}",
                    f"{row['overhead_ms']:+.2f} ({low:+.2f} to {high:+.2f})",
                    f"{row['overhead_percent']:+.2f} %",
                )
            )
    stream, cold = rows["stream"], rows["cold start"]
    return (
        table(("`Explainer(image)`", "backend, ms", "added, ms", "added"), cells)
        + f"\nA stream whose masks are read: {stream['stream_to_backend']:.2f} of the bare backend's rate.  "
        f"Cold start ({cold['n']} fresh interpreters): import {cold['import_s']:.2f} s, "
        f"ready {cold['ready_s']:.2f} s (worst {cold['ready_s_worst']:.2f} s); "
        f"{cold['rss_beyond_model_mb']:.0f} MB resident beyond the model's {cold['model_mb']:.0f} MB.\n"
    )


def throughput(result: Row) -> str:
    """`explain` beside its backend."""
    cells = []
    for row in result["rows"]:
        low, high = row.get("of_the_backend_ci") or (None, None)
        interval = f" ({low:.2f} to {high:.2f})" if low is not None else ""
        rate = row.get("pictures_per_second") or row["fps"]
        cells.append(
            (
                row["variant"],
                str(row["n"]),
                f"{rate:.1f}",
                f"{row['of_the_backend']:.2f}{interval}",
                f"{row['growth_mb']:+.0f} MB",
            )
        )
    return table(("`nemu explain`", "n", "a second", "of the bare backend's rate", "memory"), cells)


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
