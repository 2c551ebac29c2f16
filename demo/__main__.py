"""python -m demo: explain a real encoder on photographs that the masker was not trained on.

    EfficientNet-Lite0 + masker.safetensors ──export──▶ demo.nemu ──runtime──▶ overlay.png, explained/

The encoder comes from the package index; the masker ships here (`python -m benchmarks.demo_masker` trained
it); the photographs are scikit-image's and scikit-learn's.  Everything goes to demo/out; run again, it
replaces what it made there and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from demo.lite0 import write_weights
from demo.photographs import (
    MASKER,
    Pair,
    View,
    composites,
    inside_and_outside,
    pairs,
    photographs,
    shared_and_other,
)
from nemu import main as nemu
from runtime import Explainer
from runtime.atomic import atomic_file, atomic_folder
from runtime.errors import NemuError
from runtime.media.encode import save_png
from runtime.media.overlay import grid, overlay

OUT = Path(os.path.relpath(Path(__file__).parent / "out"))
PACKAGE, WEIGHTS = OUT / "demo.nemu", OUT / "lite0.safetensors"
JUDGED = 24
"""Composites that the package's card is measured on: the fewest that `export.package.level` takes."""
SHOWN = 4
"""Number of composites in overlay.png: the first, not the best."""
COLUMNS = 3
"""Pairs of an image and its overlay in a row."""
PAIRS_SHOWN = 3
"""Number of pairs in pair.png: the first, not the best."""

BUILD = [
    *("--masker", os.path.relpath(MASKER), "--weights", str(WEIGHTS), "--evaluate", str(OUT / "judged")),
    *("--precision", "fp16", "--target", "rtx", "--out", str(PACKAGE)),
]


def main() -> int:
    """Run it all; returns 0, or the exit code of the command that failed."""
    argparse.ArgumentParser(prog="python -m demo", description=__doc__.partition("\n")[0]).parse_args()
    began = time.monotonic()
    print(f"writing the encoder to {WEIGHTS}, photographs to {OUT}", flush=True)
    try:
        write_weights(WEIGHTS)
    except NemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    shown, scored, shared = photographs(), composites(), pairs()
    sides = [view for pair in shared for view in pair.views]
    written = {"photographs": shown, "composites": scored, "judged": scored[:JUDGED], "pairs": sides}
    for name, views in written.items():
        with atomic_folder(OUT / name, force=True) as folder:
            for view in views:
                save_png(folder / f"{view.name}.png", view.image)
    explain = ["explain", str(PACKAGE), str(OUT / "photographs"), "--out", str(OUT / "explained"), "--force"]
    code = run_all(
        ["build", *BUILD, "--force"],
        ["verify", str(PACKAGE)],
        explain,
    )
    if code:
        return code
    score(shown, scored, shared)
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.  Look at {OUT / 'overlay.png'}")
    print(f"and, of two images that share a thing, at {OUT / 'pair.png'}")
    print("Try next: your own photographs and encoder:")
    print("  .venv/bin/nemu train --encoder timm/resnet50 --data PHOTOGRAPHS --out runs/mine")
    print("  .venv/bin/nemu build --masker runs/mine/masker.safetensors --out mine.nemu")
    print("  .venv/bin/nemu explain mine.nemu PHOTOGRAPHS --out explained")
    return 0


def run_all(*commands: list[str]) -> int:
    """Run commands in this process, each printed as a user would type it; returns the first non-zero code."""
    for arguments in commands:
        print(f"\n$ nemu {shlex.join(arguments)}", flush=True)
        if code := nemu(arguments):
            return code
    return 0


def score(shown: list[View], scored: list[View], shared: list[Pair]) -> None:
    """Print and save the mean mask inside and outside the objects, also of pairs; write overlay.png."""
    with Explainer(PACKAGE) as explainer:
        print(f"\nscoring {len(scored)} composites on {explainer.backend.name}")
        explained = {view.name: explainer(view.image).mask for view in (*shown, *scored)}
        paired = score_pairs(explainer, shared)
    inside, outside = inside_and_outside([v.region for v in scored], [explained[v.name] for v in scored])
    print(f"mean mask inside {inside:.3f}, outside {outside:.3f}, difference {inside - outside:.3f}")
    scores = {"inside": inside, "outside": outside, "difference": inside - outside}
    record = {**scores, "composites": len(scored), "pairs": paired}
    with atomic_file(OUT / "score.json") as file:
        file.write_text(json.dumps(record, indent=2) + "\n")
    drawn = [(v.image, overlay(v.image, explained[v.name])) for v in (*shown, *scored[:SHOWN])]
    cells = [cell for pair in drawn for cell in pair]
    rows = [cells[i : i + 2 * COLUMNS] for i in range(0, len(cells), 2 * COLUMNS)]
    save_png(OUT / "overlay.png", grid(rows), force=True)


def score_pairs(explainer: Explainer, shared: list[Pair]) -> dict[str, Any]:
    """Mean mask on the shared object and on the other one, without a target and toward each other.

    Writes pair.png: each image, its overlay without a target, its overlay toward the other image.
    """
    sides = [view for pair in shared for view in pair.views]
    compared = [explainer.compare(*(view.image for view in pair.views)) for pair in shared]
    toward = [one for comparison in compared for one in (comparison.a, comparison.b)]
    alone = [explainer(view.image) for view in sides]
    found = {
        name: shared_and_other(shared, [one.mask for one in explained])
        for name, explained in (("by_itself", alone), ("toward", toward))
    }
    print(
        f"{len(shared)} pairs of images that share one of two things: mean mask on that one and on the "
        "other {by_itself[shared]:.3f} and {by_itself[other]:.3f} by themselves, "
        "{toward[shared]:.3f} and {toward[other]:.3f} toward each other".format(**found)
    )
    cells = [
        cell
        for view, plain, asked in zip(sides, alone, toward, strict=True)
        for cell in (view.image, plain.overlay(), asked.overlay())
    ]
    save_png(OUT / "pair.png", grid([cells[6 * i : 6 * i + 6] for i in range(PAIRS_SHOWN)]), force=True)
    return {"n": len(shared), **found}


if __name__ == "__main__":
    sys.exit(main())
