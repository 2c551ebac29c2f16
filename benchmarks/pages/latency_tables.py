"""Tables of what a mask costs: the decoders, a package's latency, the runtime, and the training."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common.markdown import NONE, Columns, Result, Row, interval, records

VARIANTS = {
    "encoder": "encoder only",
    "control": "encoder only, a second session (control)",
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
LOOPS = {
    "authors_loop": "the authors' loop",
    "our_loop": "ours",
    "our_loop_authors_decoder": "ours with their decoder",
    "our_loop_authors_objective": "ours with their objective",
    "our_loop_authors_decoder_and_objective": "ours with their decoder and objective",
}
IMAGES = {
    "control": "control: the backend against itself",
    "graph size": "an image that needs no resizing",
    "resized": "an image of the grid's own size, which the encoder's transform enlarges",
}
METRICS = {"relevance_rank": "rank", "insertion_minus_deletion": "insertion − deletion"}


def frontier(result: Result) -> str:
    """A line for each decoder: its cost on every model, its quality, and its difference to the authors'."""
    cost = {(row["model"], row["variant"]): row for row in result["rows"]}
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    comparisons = result["comparisons"]
    kinds = list(dict.fromkeys(c["kind"] for c in comparisons))
    decoders: dict[tuple[str, str], dict[str, str]] = {}
    for c in comparisons:
        line = decoders.setdefault((c["encoder"], c["decoder"]), {"encoder": c["encoder"]})
        line["decoder"] = f"`{c['decoder']}`"
        line |= {model: _ratio(cost[model, c["decoder"]]) for model in models}
        line[f"{METRICS[c['metric']]}, {c['kind']}"] = _quality(c)
    columns = {"scored on": "encoder", "decoder": "decoder", **{f"× encoder, {m}": m for m in models}}
    columns |= {title: title for m in METRICS.values() for kind in kinds for title in [f"{m}, {kind}"]}
    control = ", ".join(f"{m} {_ratio(cost[m, 'control'])}" for m in models)
    note = f"\nControl (the encoder against itself, same runs): {control}.\n" if models else ""
    return records(decoders.values(), columns) + note


def latency(result: Result, *, groups: Sequence[str]) -> str:
    """The rows of some groups of one package."""
    rows = [row for row in result["rows"] if row["group"] in groups]
    return records(
        rows,
        {
            "runs in": lambda r: f"{r['backend']} {r['precision']}",
            "what": lambda r: VARIANTS[r["variant"]],
            "median, ms": lambda r: f"{r['median_ms']:.1f}",
            "p99, ms": lambda r: f"{r['p99_ms']:.1f}",
            "× encoder": lambda r: _ratio(r) if r["ratio_to_encoder"] else NONE,
            "faster than the authors' way": _times,
            "n": "n",
        },
    )


def training(result: Result) -> str:
    """Images per second of every loop, and their ratio to the authors' loop."""

    def ratio(row: Row) -> str:
        low, high = row["ratio_ci"] or (None, None)
        return interval(row["ratio_to_authors_loop"], row["ratio_ci"] if low != high else None, "{:.2f}")

    columns: Columns = {
        "loop": lambda r: LOOPS[r["variant"]],
        "images/s, median": lambda r: f"{r['images_per_second']:.2f}",
        "× the authors'": ratio,
    }
    return records(result["rows"], columns)


def runtime_cost(result: Result) -> str:
    """What the Explainer adds to its backend, the rate of a stream, and the time of a cold start."""
    rows = {row["variant"]: row for row in result["rows"]}
    columns: Columns = {
        "`Explainer(image)`": lambda r: IMAGES[r["variant"]],
        "backend, ms": lambda r: f"{r['backend_median_ms']:.1f}",
        "added, ms": lambda r: interval(r["overhead_ms"], r["overhead_ms_ci"], "{:+.2f}"),
        "added": lambda r: f"{r['overhead_percent']:+.2f} %",
    }
    stream, cold = rows["stream"], rows["cold start"]
    return (
        records([rows[name] for name in IMAGES if name in rows], columns)
        + f"\nA stream whose masks are read: {stream['stream_to_backend']:.2f} of the bare backend's rate.  "
        f"Cold start ({cold['n']} fresh interpreters): import {cold['import_s']:.2f} s, "
        f"ready {cold['ready_s']:.2f} s (worst {cold['ready_s_worst']:.2f} s); "
        f"{cold['rss_beyond_model_mb']:.0f} MB resident beyond the model's {cold['model_mb']:.0f} MB.\n"
    )


def throughput(result: Result) -> str:
    """Rate and memory of `nemu explain`, beside its backend."""
    columns: Columns = {
        "`nemu explain`": lambda r: "images" if r["variant"] == "pictures" else r["variant"],
        "n": "n",
        "a second": lambda r: f"{r.get('pictures_per_second') or r['fps']:.1f}",
        "of the bare backend's rate": lambda r: interval(
            r["of_the_backend"], r.get("of_the_backend_ci"), "{:.2f}"
        ),
        "memory": lambda r: f"{r['growth_mb']:+.0f} MB",
    }
    return records(result["rows"], columns)


def _ratio(row: Row) -> str:
    return interval(row["ratio_to_encoder"], row["ratio_ci"])


def _times(row: Row) -> str:
    gain = row.get("faster_than_authors_way")
    return f"{gain:.1f} × ({row['faster_ci'][0]:.1f} to {row['faster_ci'][1]:.1f})" if gain else NONE


def _quality(found: Row) -> str:
    mean = f"{found['mean']:.3f}" + (f" ± {found['spread']:.3f}" if found["spread"] is not None else "")
    if found["decoder"] == "unet":
        return mean
    low, high = found["difference_ci"]
    return f"{mean} ({low:+.3f} to {high:+.3f}{'' if found['not_inferior'] else ' ✗'})"
