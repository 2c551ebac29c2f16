"""The tables of docs/benchmarks.md, from the JSON under benchmarks/results/.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.common.markdown import (
    RESULTS,
    ROOT,
    Result,
    command_of,
    device_of,
    load,
    made,
    records,
    write_page,
)
from benchmarks.pages import latency_tables
from benchmarks.quality import quality_tables
from benchmarks.quality.natural import natural_tables

PAGE = "benchmarks.md"
DECODERS = (
    "![Added latency against relevance rank and insertion − deletion, a mark a decoder](frontier.png)\n"
)


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
        "frontier": lambda result: f"{DECODERS}\n{latency_tables.frontier(result)}",
        **{name: partial(latency_tables.latency, groups=shown) for name, shown in groups.items()},
        "runtime_cost": latency_tables.runtime_cost,
        "throughput": latency_tables.throughput,
        "training": latency_tables.training,
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
    if pairs := card.get("pairs"):
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
    names = {
        "mean mask on the digit": "mask_on_digit",
        "mean mask off the digit": "mask_off_digit",
        "difference": "difference",
        "embedding distance of the masked image, end of training": "embedding_distance",
    }
    over = f"mean ± standard deviation over {len(rows)} seeds" if len(rows) > 1 else "one seed"
    return (
        f"{rows[0]['steps']} steps, {rows[0]['scenes']} test scenes, {over}.  Its encoder names "
        f"{encoder['test_accuracy']:.1%} of {encoder['test_scenes']} test scenes right "
        f"(`{encoder['command']}`).\n\n"
        + _facts({title: _spread([row[key] for row in rows]) for title, key in names.items()})
    )


def matches(result: Result) -> str:
    """Similarity of pairs, and how much of it their masks keep."""
    (r,) = result["rows"]
    return f"{r['n']} pairs.\n\n" + _facts(
        {
            "similarity": f"{r['similarity']:.3f}",
            "similarity of what the two masks keep": f"{r['kept_similarity']:.3f}",
            "pairs that keep at least 0.9 of their similarity": f"{r['pairs_at_least_0.9']:.0%}",
            "similarity with the masks exchanged": f"{r['exchanged_similarity']:.3f}",
            "mean mask on the digit": f"{r['mask_on_digit']:.3f}",
            "mean mask off the digit": f"{r['mask_off_digit']:.3f}",
        }
    )


def zoo(result: Result) -> str:
    """Encoders that compile: their engine's layers, build time and errors."""
    return records(
        result["rows"],
        {
            "encoder": "encoder",
            "engine": "engine",
            "layers in half": lambda r: (
                f"{r['weighted_layers'].get('HALF', 0)} of {sum(r['weighted_layers'].values())}"
            ),
            "build, s": lambda r: f"{r['build_seconds']:.1f}",
            "fp32 error": lambda r: f"{r['fp32_embedding_error']:.0e}",
            "fp16 error": lambda r: f"{r['fp16_embedding_error']:.0e}",
            "fp16 mask IoU": lambda r: f"{r['fp16_mask_iou']:.4f}",
        },
    )


def imports(result: Result) -> str:
    """Median time of an import beyond numpy's."""
    rows = [row for row in result["rows"] if row["statement"] in ("runtime", "every module of runtime")]
    return records(
        rows,
        {
            "import": "statement",
            "ms beyond `import numpy`, median": lambda r: f"{r['beyond_numpy_median_ms']:.0f}",
            "interpreters": "n",
        },
    )


def everything() -> str:
    """A line for each recorded result: its file, command and device."""
    files = [path for path in sorted(RESULTS.glob("*.json")) if "meta" in json.loads(path.read_text())]
    return records(
        [{"name": path.stem, **load(path.stem)["meta"]} for path in files],
        {
            "result": lambda r: f"[{r['name']}](../benchmarks/results/{r['name']}.json)",
            "command": lambda r: f"`{command_of(r)}`",
            "device": lambda r: device_of(r).partition(";")[0],
        },
    )


def _facts(cells: dict[str, str]) -> str:
    return records([{"of": name, "is": value} for name, value in cells.items()], {"": "of", "value": "is"})


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main() -> Path:
    """Write the page and return its path."""
    return write_page(PAGE, parts())


if __name__ == "__main__":
    print(main())
