"""README's figures, from the JSON under benchmarks/results/.

python -m benchmarks.tables          rewrite the part of README between the markers
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import latency_tables, natural_tables
from benchmarks.markdown import table
from benchmarks.quality_tables import compact

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
BEGIN, END = "<!-- figures: python -m benchmarks.tables -->\n", "<!-- end of figures -->\n"


def figures() -> str:
    """Markdown made from the results as they stand."""
    parts = [
        _shipped() + "\n" + _demo(_load("demo_score")) + "\n" + _matches(_load("matches")),
        _zoo(_load("zoo")),
        _imports(_load("import_time")),
    ]
    if (RESULTS / "quality.json").exists():
        parts.insert(
            1,
            compact(_load("quality"))
            + "\nOurs was `--masker lateral-wide --area-weight 0.5` when this was measured.\n",
        )
    if (RESULTS / "natural_default.json").exists():
        parts.insert(1, natural_tables.compact(_load("natural_default")))
    return "\n".join([*parts[:2], *_costs(), *parts[2:]])


def _costs() -> list[str]:
    """What a mask costs, of the results that there are."""
    resnet, vit = (f"latency_{model}" for model in ("resnet50", "vit_small_patch16_224"))
    texts = {
        "frontier": (
            "**What a decoder costs and what it is worth**: fused with each model, float32, one image, 2\n"
            "CPU cores; trained alike on encoder `digits`, standard scenes and small digits\n"
            "(`python -m benchmarks.frontier --encoders digits --decoders lateral lateral-narrow "
            "lateral-early lateral-wide unet --json benchmarks/results/frontier.json`).\n\n"
            "![Added latency against relevance rank and insertion − deletion, a mark a decoder]"
            "(docs/frontier.png)\n\n"
            "With `--area-weight 0.5`, the default of the time.\n"
            "Three seeds of training for `lateral` and `unet`, the authors' decoder; one for the others.\n"
            "In brackets the 95 % interval of the difference to the authors' decoder, paired by scene, over\n"
            "scenes and seeds; ✗: not shown to be within 0.02 of it.\n\n",
            latency_tables.frontier,
        ),
        resnet: (
            "**ResNet-50 at 224 pixels, one image, 2 CPU cores**, interleaved\n"
            f"(`python -m benchmarks.latency resnet50.nemu --json benchmarks/results/{resnet}.json`).\n"
            "The CPU has VNNI instructions, without which int8 gains nothing; the tables around this one\n"
            "are of a slower CPU.\n\n",
            lambda r: latency_tables.latency(r, groups=("graphs, batch 1", "peers", "relax")),
        ),
        vit: (
            "**ViT-S/16 at 224 pixels**, the same\n"
            f"(`python -m benchmarks.latency vit.nemu --no-peers --json benchmarks/results/{vit}.json`).\n\n",
            lambda r: latency_tables.latency(r, groups=("graphs, batch 1",)),
        ),
        "runtime_cost": (
            "**What the runtime adds to its backend**, ResNet-50\n"
            "(`python -m benchmarks.runtime_cost resnet50.nemu "
            "--json benchmarks/results/runtime_cost.json`).\n\n",
            latency_tables.runtime_cost,
        ),
        "throughput": (
            "**Many pictures and a video**, ResNet-50, 640 × 480 pixels, overlay (as heat) and mask written\n"
            "(`python -m benchmarks.throughput resnet50.nemu "
            "--json benchmarks/results/throughput.json`).\n\n",
            latency_tables.throughput,
        ),
        "training": (
            "**Training throughput**, ResNet-50 at 224 pixels, batch 4, 2 CPU cores\n"
            "(`python -m benchmarks.training --json benchmarks/results/training.json`).\n\n",
            latency_tables.training,
        ),
    }
    return [
        text + make(_load(name))
        for name, (text, make) in texts.items()
        if (RESULTS / f"{name}.json").exists()
    ]


def insert(readme: str) -> str:
    """README with its figures replaced."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{figures()}{END}{after}"


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _shipped() -> str:
    card, run = (json.loads((ROOT / f"demo/masker/{name}.json").read_text()) for name in ("card", "summary"))
    of = card["composites"]
    cells = [(f"mean mask {side} the object", f"{of[side]:.3f}") for side in ("inside", "outside")]
    if pairs := card.get("pairs"):
        cells += [
            (
                f"mean mask on what two pictures share / on what they do not, {words} ({pairs['n']} pairs)",
                f"{pairs[how]['shared']:.3f} / {pairs[how]['other']:.3f}",
            )
            for how, words in (("by_itself", "each by itself"), ("toward", "toward each other"))
        ]
    return (
        f"**The masker that ships**, EfficientNet-Lite0, {of['n']} composites of five unseen photographs\n"
        f"(`{card['command']}`,\n"
        f"{run['seconds'] / 60:.0f} minutes on {card['meta']['device'].partition(';')[0]}; "
        f"{card['photographs']} photographs, {card['drawings']} drawings).\n\n" + table(("", ""), cells)
    )


def _demo(result: dict[str, Any]) -> str:
    rows = result["rows"]
    encoder = json.loads((ROOT / "demo/encoder.json").read_text())
    names = (
        ("mean mask on the digit", "mask_on_digit", "{:.3f}"),
        ("mean mask off the digit", "mask_off_digit", "{:.3f}"),
        ("difference", "difference", "{:.3f}"),
        ("embedding distance of the masked image, end of training", "embedding_distance", "{:.3f}"),
    )
    cells = [(title, _spread([row[key] for row in rows], form)) for title, key, form in names]
    seeds = [str(row["seed"]) for row in rows]
    over = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    return (
        f"**The digits' masker**, {rows[0]['steps']} steps, {rows[0]['scenes']} test scenes: {over}\n"
        f"(`python -m benchmarks.demo_score --seeds {' '.join(seeds)} "
        "--json benchmarks/results/demo_score.json`).\n"
        f"Its encoder names {encoder['test_accuracy']:.1%} of {encoder['test_scenes']} test scenes right\n"
        f"(`{encoder['command']}`).\n"
        "\n" + table(("", ""), cells)
    )


def _matches(result: dict[str, Any]) -> str:
    (r,) = result["rows"]
    return (
        f"**Why two pictures match**, {r['n']} pairs of demo scenes with one digit on two photographs\n"
        "(`python -m benchmarks.matches demo/out/digits/digits.nemu\n"
        "--json benchmarks/results/matches.json`):\n"
        f"similarity {r['similarity']:.3f}; of what the two masks keep {r['kept_similarity']:.3f}, at least\n"
        f"0.9 of the original in {r['pairs_at_least_0.9']:.0%} of the pairs; with the masks exchanged\n"
        f"{r['exchanged_similarity']:.3f} (this encoder's embeddings are all much alike).  Mean mask on the\n"
        f"digit {r['mask_on_digit']:.3f}, off it {r['mask_off_digit']:.3f}.\n"
    )


def _zoo(result: dict[str, Any]) -> str:
    titles = ("encoder", "engine", "layers in half", "build, s", "fp32 error", "fp16 error", "fp16 mask IoU")
    cells = []
    for r in result["rows"]:
        layers = r["weighted_layers"]
        half = f"{layers.get('HALF', 0)} of {sum(layers.values())}"
        errors = (f"{r['fp32_embedding_error']:.0e}", f"{r['fp16_embedding_error']:.0e}")
        cells.append(
            (
                r["encoder"],
                r["engine"],
                half,
                f"{r['build_seconds']:.1f}",
                *errors,
                f"{r['fp16_mask_iou']:.4f}",
            )
        )
    return (
        "**Encoders that compile** at 224 pixels, random weights, fp16 engine built without a GPU\n"
        "(`python -m benchmarks.zoo --out zoo --json benchmarks/results/zoo.json`).\n"
        "Errors: embedding of the worst image, relative to the median distance between different images.\n"
        "Measured when the authors' decoder was the default masker.\n\n" + table(titles, cells)
    )


def _imports(result: dict[str, Any]) -> str:
    rows = {row["statement"]: row for row in result["rows"]}
    one, every = (rows[k]["beyond_numpy_median_ms"] for k in ("runtime", "every module of runtime"))
    return (
        f"**Import**: `import runtime` takes {one:.0f} ms beyond `import numpy`, "
        f"every module of it {every:.0f} ms; medians of {rows['runtime']['n']} interpreters\n"
        "(`python -m benchmarks.import_time --json benchmarks/results/import_time.json`).\n"
    )


def _spread(values: list[float], form: str) -> str:
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(insert(path.read_text()))
