"""The frontier as a plot: what each decoder adds to the encoder's latency, and how well it explains.

python -m benchmarks.frontier_picture    benchmarks/results/frontier.json → docs/frontier.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
METRICS = {"relevance_rank": "relevance rank", "insertion_minus_deletion": "insertion − deletion"}
MARKS = "ov^Ds*Pp"
"""A shape for each decoder, in the order of the result."""
_LEAST = 1e-3  # overhead below it, noise, is drawn there: the axis is logarithmic


def draw(result: dict[str, Any], path: Path, *, model: str = "resnet50") -> None:
    """One panel a metric, first encoder; filled marks are standard scenes, hollow ones small objects."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cost = {row["variant"]: row["ratio_to_encoder"] - 1 for row in result["rows"] if row["model"] == model}
    marks = dict(zip(dict.fromkeys(c["decoder"] for c in result["comparisons"]), MARKS, strict=False))
    figure, panels = pyplot.subplots(1, len(METRICS), figsize=(10, 3.6), layout="constrained")
    for panel, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for found in result["comparisons"]:
            if (found["metric"], found["encoder"]) != (metric, result["comparisons"][0]["encoder"]):
                continue
            decoder, filled = found["decoder"], found["kind"] == "standard"
            colour = "tab:red" if decoder == "unet" else "tab:blue"
            panel.scatter(
                100 * max(cost[decoder], _LEAST),
                found["mean"],
                s=60,
                marker=marks[decoder],
                edgecolor=colour,
                facecolor=colour if filled else "white",
                label=decoder.replace("unet", "unet, the authors'") if filled else None,
            )
        panel.set(xscale="log", xlabel=f"added to {model}'s latency, %", ylabel=title)
        panel.margins(0.12, 0.18)
        panel.axvline(5, color="grey", linewidth=0.8, linestyle=":")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.42, 0.4))
    figure.suptitle("filled: standard scenes; hollow: small objects; dotted: 5 %", fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Returns 0."""
    draw(json.loads((ROOT / "benchmarks/results/frontier.json").read_text()), ROOT / "docs/frontier.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
