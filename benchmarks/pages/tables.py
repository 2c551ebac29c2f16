"""The tables of docs/benchmarks.md, from the JSON under benchmarks/results/.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.common.estimate import Seeds
from benchmarks.common.markdown import (
    RESULTS,
    ROOT,
    Result,
    Row,
    cell,
    command_of,
    device_of,
    load,
    made,
    records,
    table,
    write_page,
)
from benchmarks.quality import quality_tables
from benchmarks.quality.natural import natural_tables

PAGE = "benchmarks.md"
LATENCY = """
runs in: {backend} {precision} | what: {what} | median, ms: {median_ms:.1f} | p99, ms: {p99_ms:.1f} |
× encoder: {ratio_to_encoder:.3f} ({ratio_ci[0]:.3f} to {ratio_ci[1]:.3f}) |
faster than the authors' way: {faster_than_authors_way:.1f} × ({faster_ci[0]:.1f} to {faster_ci[1]:.1f}) |
n: {n}
"""
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
TRAINING = "loop: {loop} | images/s, median: {images_per_second:.2f} | × the authors': {ratio}"
LOOPS = {
    "authors_loop": "the authors' loop",
    "our_loop": "ours",
    "our_loop_authors_decoder": "ours with their decoder",
    "our_loop_authors_objective": "ours with their objective",
    "our_loop_authors_decoder_and_objective": "ours with their decoder and objective",
}
RUNTIME_COST = """
`Explainer(image)`: {image} | backend, ms: {backend_median_ms:.1f} |
added, ms: {overhead_ms:+.2f} ({overhead_ms_ci[0]:+.2f} to {overhead_ms_ci[1]:+.2f}) |
added: {overhead_percent:+.2f} %
"""
IMAGES = {
    "control": "control: the backend against itself",
    "graph size": "an image that needs no resizing",
    "resized": "an image of the grid's own size, which the encoder's transform enlarges",
}
THROUGHPUT = """
`nemu explain`: {what} | n: {n} | a second: {rate:.1f} | of the bare backend's rate: {ratio} |
memory: {growth_mb:+.0f} MB
"""
ZOO = """
encoder: {encoder} | engine: {engine} | layers in half: {half} of {layers} | build, s: {build_seconds:.1f} |
fp32 error: {fp32_embedding_error:.0e} | fp16 error: {fp16_embedding_error:.0e} |
fp16 mask IoU: {fp16_mask_iou:.4f}
"""
IMPORTS = """
import: {statement} | ms beyond `import numpy`, median: {beyond_numpy_median_ms:.0f} | interpreters: {n}
"""
EVERYTHING = "result: [{name}](../benchmarks/results/{name}.json) | command: `{command}` | device: {device}"
DEMO = {
    "mask_on_digit": "mean mask on the digit",
    "mask_off_digit": "mean mask off the digit",
    "difference": "difference",
    "embedding_distance": "embedding distance of the masked image, end of training",
}
MATCHES = {
    "similarity": "{similarity:.3f}",
    "similarity of what the two masks keep": "{kept_similarity:.3f}",
    "pairs that keep at least 0.9 of their similarity": "{share:.0%}",
    "similarity with the masks exchanged": "{exchanged_similarity:.3f}",
    "mean mask on the digit": "{mask_on_digit:.3f}",
    "mean mask off the digit": "{mask_off_digit:.3f}",
}
DECODERS = (
    "![Added latency against relevance rank and insertion − deletion, a mark a decoder](frontier.png)\n"
)
METRICS = {"relevance_rank": "rank", "insertion_minus_deletion": "insertion − deletion"}


def parts() -> dict[str, str]:
    """Each table of the page with the command, device and commit that its result recorded."""
    groups = {
        "latency_resnet50": ("graphs, batch 1", "peers", "relax"),
        "latency_vit_small_patch16_224": ("graphs, batch 1",),
    }
    makers: dict[str, Callable[[Result], str]] = {
        "demo_score": demo,
        "matches": matches,
        "natural_default": natural_tables.masks,
        "frontier": lambda result: f"{DECODERS}\n{frontier(result)}",
        **{name: partial(latency, groups=shown) for name, shown in groups.items()},
        "runtime_cost": runtime_cost,
        "throughput": throughput,
        "training": training,
        "quality": quality_tables.compact,
        "zoo": zoo,
        "import_time": imports,
    }
    found = {name: load(name) for name in makers}
    made_from = {name: f"{makers[name](result)}\n{made(result['meta'])}" for name, result in found.items()}
    return {"shipped": shipped(), **made_from, "all": everything()}


def shipped() -> str:
    """The scores of the masker that ships, from its card."""
    card, run = (json.loads((ROOT / f"demo/masker/{name}.json").read_text()) for name in ("card", "summary"))
    scores = card["composites"]
    cells = {f"mean mask {side} the object": f"{scores[side]:.3f}" for side in ("inside", "outside")}
    pairs = card["pairs"]
    for how, words in (("by_itself", "each without a target"), ("toward", "toward each other")):
        title = f"mean mask on what two images share / on the rest, {words} ({pairs['n']} pairs)"
        cells[title] = f"{pairs[how]['shared']:.3f} / {pairs[how]['other']:.3f}"
    return (
        f"{scores['n']} composites of five unseen photographs; trained in "
        f"{run['seconds'] / 60:.0f} minutes on {card['photographs']} photographs and "
        f"{card['drawings']} drawings.\n\n"
        f"{_facts(cells)}\n{made(card['meta'] | {'command': card['command']})}"
    )


def demo(result: Result) -> str:
    """The scores of the masker of the digits' demo."""
    rows = result["rows"]
    encoder = json.loads((ROOT / "demo/encoder.json").read_text())
    scores = Seeds(rows)
    over = f"mean ± standard deviation over {len(rows)} seeds" if len(rows) > 1 else "one seed"
    return (
        f"{rows[0]['steps']} steps, {rows[0]['scenes']} test scenes, {over}.  Its encoder names "
        f"{encoder['test_accuracy']:.1%} of {encoder['test_scenes']} test scenes right "
        f"(`{encoder['command']}`).\n\n"
        + _facts({title: f"{scores[key]:.3f}" for key, title in DEMO.items()})
    )


def matches(result: Result) -> str:
    """Similarity of pairs, and how much of it their masks keep."""
    (row,) = result["rows"]
    known = {**row, "share": row["pairs_at_least_0.9"]}
    facts = {title: form.format_map(known) for title, form in MATCHES.items()}
    return f"{row['n']} pairs.\n\n{_facts(facts)}"


def frontier(result: Result) -> str:
    """A line for each decoder: its cost on every model, its quality, and its difference to the authors'."""
    ratio = "{ratio_to_encoder:.3f} ({ratio_ci[0]:.3f} to {ratio_ci[1]:.3f})"
    cost = {(row["model"], row["variant"]): cell(row, ratio) for row in result["rows"]}
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    columns = {"scored on": "encoder", "decoder": "`{decoder}`", **{f"× encoder, {m}": m for m in models}}
    decoders: dict[tuple[str, str], dict[str, str]] = {}
    for c in result["comparisons"]:
        who = {"encoder": c["encoder"], "decoder": c["decoder"]}
        line = decoders.setdefault((c["encoder"], c["decoder"]), who)
        line |= {model: cost[model, c["decoder"]] for model in models}
        line[f"{METRICS[c['metric']]}, {c['kind']}"] = _quality(c)
    kinds = dict.fromkeys(c["kind"] for c in result["comparisons"])
    columns |= {title: title for m in METRICS.values() for kind in kinds for title in [f"{m}, {kind}"]}
    control = ", ".join(f"{model} {cost[model, 'control']}" for model in models)
    return (
        records(decoders.values(), columns)
        + f"\nControl (the encoder against itself, same runs): {control}.\n"
    )


def latency(result: Result, *, groups: Sequence[str]) -> str:
    """The rows of some groups of one package."""
    rows = [row for row in result["rows"] if row["group"] in groups]
    return records([{**row, "what": VARIANTS[row["variant"]]} for row in rows], LATENCY)


def runtime_cost(result: Result) -> str:
    """What the Explainer adds to its backend, the rate of a stream, and the time of a cold start."""
    rows = {row["variant"]: row for row in result["rows"]}
    stream, cold = rows["stream"], rows["cold start"]
    calls = [{**rows[name], "image": title} for name, title in IMAGES.items() if name in rows]
    return (
        records(calls, RUNTIME_COST)
        + f"\nA stream whose masks are read: {stream['stream_to_backend']:.2f} of the bare backend's rate.  "
        f"Cold start ({cold['n']} fresh interpreters): import {cold['import_s']:.2f} s, "
        f"ready {cold['ready_s']:.2f} s (worst {cold['ready_s_worst']:.2f} s); "
        f"{cold['rss_beyond_model_mb']:.0f} MB resident beyond the model's {cold['model_mb']:.0f} MB.\n"
    )


def throughput(result: Result) -> str:
    """Rate and memory of `nemu explain`, beside its backend."""
    lines = []
    for row in result["rows"]:
        what, rate = ("video", "fps") if row["variant"] == "video" else ("images", "pictures_per_second")
        ratio = interval(row["of_the_backend"], row.get("of_the_backend_ci"), ".2f")
        lines.append({**row, "what": what, "rate": row[rate], "ratio": ratio})
    return records(lines, THROUGHPUT)


def training(result: Result) -> str:
    """Images per second of every loop, and their ratio to the authors' loop."""
    lines = []
    for row in result["rows"]:
        ends = None if row["variant"] == "authors_loop" else row["ratio_ci"]
        ratio = interval(row["ratio_to_authors_loop"], ends, ".2f")
        lines.append({**row, "loop": LOOPS[row["variant"]], "ratio": ratio})
    return records(lines, TRAINING)


def zoo(result: Result) -> str:
    """Encoders that compile: their engine's layers, build time and errors."""
    layers = [row["weighted_layers"] for row in result["rows"]]
    counts = [{"half": of.get("HALF", 0), "layers": sum(of.values())} for of in layers]
    return records([row | of for row, of in zip(result["rows"], counts, strict=True)], ZOO)


def imports(result: Result) -> str:
    """Median time of an import beyond numpy's."""
    shown = ("runtime", "every module of runtime")
    return records([row for row in result["rows"] if row["statement"] in shown], IMPORTS)


def everything() -> str:
    """A line for each recorded result: its file, command and device."""
    lines = []
    for path in sorted(RESULTS.glob("*.json")):
        if meta := json.loads(path.read_text()).get("meta"):
            device = device_of(meta).partition(";")[0]
            lines.append({"name": path.stem, "command": command_of(meta), "device": device})
    return records(lines, EVERYTHING)


def _facts(cells: Mapping[str, str]) -> str:
    return table(("", "value"), cells.items())


def interval(value: float, ends: Sequence[float] | None, form: str) -> str:
    """`value (low to high)`; the value alone if it has no interval."""
    return f"{value:{form}}" + (f" ({ends[0]:{form}} to {ends[1]:{form}})" if ends else "")


def _quality(found: Row) -> str:
    mean = f"{found['mean']:.3f}" + (f" ± {found['spread']:.3f}" if found["spread"] is not None else "")
    if found["decoder"] == "unet":
        return mean
    low, high = found["difference_ci"]
    return f"{mean} ({low:+.3f} to {high:+.3f}{'' if found['not_inferior'] else ' ✗'})"


def main() -> Path:
    """Write the page and return its path."""
    return write_page(PAGE, parts())


if __name__ == "__main__":
    print(main())
