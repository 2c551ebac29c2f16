"""Your encoder, your images: trained maskers beside the baselines, by what needs no planted truth.

    python -m benchmarks.own ours=runs/mine unet=runs/unet --images test/ --json own.json

Runs of one name are seeds of one training: their spread is the table's ±.  The images should not be those
that the maskers were trained on.  Half of them only serve: as what hidden pixels show, and for the mean
embedding that cosines are centred on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.common.markdown import records
from benchmarks.common.record import command, exits, meta, write
from benchmarks.quality.__main__ import CHEAP, COUNTS, few
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.maskers import mask
from benchmarks.quality.metrics.robustness import randomised_copies
from benchmarks.quality.quality_tables import METHODS, columns, comparison, scored
from benchmarks.quality.scoring import (
    CHUNK,
    ORDER_ONLY,
    TIMED_SEED,
    Explain,
    Row,
    Subject,
    score,
    seconds_per_image,
)
from export.package.source import fitted
from runtime.errors import InputError
from runtime.media.sources import find_images
from train.checkpoint import load_nem, read_config
from train.encoder.frozen import FrozenEncoder
from train.run_folder import MASKER

DEFAULT_BASELINES = ("gradient_shap", "saliency", "lafam", "centre", "random")
"""The cheap ones; one map of the others is tens to thousands of passes."""
FEWEST = 8
"""Images: four to explain, four that serve."""
KIND = "pictures"
TIMED = 20
"""Images that the time is taken on."""
COLUMNS = columns("complexity", "sparseness", "insertion_minus_deletion", "sensitivity", "mprt_abs_rho", "ms")
LEVELS = {
    "masker": "method",
    **columns("cosine_kept", "cosine_kept_mean_fill"),
    "area above 0.5": "{mask_area:.3f}",
}
"""Columns of masks only: the values of other maps just have an order."""


def runs_of(given: Sequence[str]) -> dict[str, list[Path]]:
    """NAME=FOLDER, … → the maskers of each name.

    Raises:
        InputError: not of that form, no masker there, or runs of one name that differ in more than the seed.
    """
    found: dict[str, list[Path]] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder or name in METHODS:
            raise InputError(
                text,
                expected="NAME=FOLDER of a run of python -m train, NAME being none of " + ", ".join(METHODS),
                cure="e.g. ours=runs/mine",
            )
        found.setdefault(name, []).append(Path(folder) / MASKER)
    for name, maskers in found.items():
        configs = [read_config(masker) for masker in maskers]
        settings = [dataclasses.replace(config, seed=0) for config in configs]
        if any(other != settings[0] for other in settings) or len({c.seed for c in configs}) < len(configs):
            raise InputError(
                f"the runs called {name} have one seed, or differ in more than their seed",
                expected="one training with several seeds",
                cure="give each training a name of its own",
            )
    return found


def subject_of(encoder: FrozenEncoder, images: Path, *, most: int) -> Subject:
    """Half of the images of a folder to explain, at most `most`; the others to fill and to centre.

    Raises:
        InputError: fewer than FEWEST images, or one that cannot be read.
    """
    found = find_images(images)
    files = [found[i] for i in np.random.default_rng(0).permutation(len(found))[: 2 * most]]
    if len(files) < FEWEST:
        raise InputError(
            f"{images} holds {len(files)} images",
            expected=f"at least {FEWEST}: half are explained, half fill what is hidden",
            cure="name a folder with more; a few hundred give figures that mean something",
        )
    x = encoder.normalize(torch.from_numpy(fitted(files, encoder.input)))
    explained, serving = x[::2], x[1::2]
    with torch.inference_mode():
        centre = torch.cat([encoder(part)[0] for part in serving.split(CHUNK)]).mean(0)
    return Subject(
        encoder=encoder,
        x=explained,
        regions=np.zeros((len(explained), *x.shape[2:]), bool),  # nobody knows
        centre=centre.clone(),
        photographs=serving,
    )


@dataclass(frozen=True, kw_only=True)
class Method:
    """One explainer of the table; a name may have several seeds."""

    name: str
    seed: int = 0
    explain: Explain
    timed: Explain
    """`explain` with another seed, so that no remembered run is timed."""
    objective: str | None = None
    """Objective of a masker; None for a baseline."""


def methods_of(
    runs: Mapping[str, Sequence[Path]], baselines: Sequence[str], *, weights: str | None
) -> tuple[FrozenEncoder, list[Method]]:
    """The encoder that all maskers are of, and every method.

    Raises:
        MaskerMismatch: two maskers are of different encoders.
    """
    encoder = load_nem(next(iter(runs.values()))[0], weights=weights).encoder
    methods = []
    for name, path in ((name, path) for name, maskers in runs.items() for path in maskers):
        config, explain = read_config(path), partial(mask, load_nem(path, encoder=encoder).masker)
        seed, objective = config.seed, config.objective
        methods.append(Method(name=name, seed=seed, explain=explain, timed=explain, objective=objective))
    for name in baselines:
        explain, timed = (partial(BASELINES[name].explain, seed=seed) for seed in (0, TIMED_SEED))
        methods.append(Method(name=name, explain=explain, timed=timed))
    return encoder, methods


def row_of(method: Method, subject: Subject, *, quick: bool) -> Row:
    """Every figure of one method, and its seconds an image; what a region would be needed for is null."""
    full = COUNTS.get(method.name, CHEAP)
    families = ("images", "faithfulness", "sensitivity", "mprt")
    counts = (few(full) if quick else full).at_most(**dict.fromkeys(families, len(subject.x)))
    is_mask = method.objective not in (None, "ranking")
    copies = randomised_copies(subject.encoder)
    figures = score(
        subject, method.explain, counts=counts, is_mask=is_mask, randomised=copies, seed=method.seed
    )
    if method.objective == "ranking":
        figures |= dict.fromkeys(ORDER_ONLY)
    call = partial(method.timed, subject.encoder)
    return {
        "encoder": subject.encoder.record.id,
        "method": method.name,
        "seed": method.seed,
        "kind": KIND,
        "objective": method.objective,
        **figures,
        **seconds_per_image(
            call, subject.x[: counts.images][:TIMED], slow=method.name in COUNTS, rounds=1 if quick else 5
        ),
    }


def tables(result: Mapping[str, Any]) -> str:
    """All methods, then what the level of the masks is worth."""
    found = scored(result, result["rows"][0]["encoder"], KIND)
    methods = {name: found[name] for name in dict.fromkeys(row["method"] for row in result["rows"])}
    parts = [comparison(methods, COLUMNS)]
    if levels := [of for of in methods.values() if of["mask_area"]]:
        parts.append(records(levels, LEVELS))
    return "\n".join(parts)


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = command("own", __doc__)
    p.add_argument("runs", nargs="+", metavar="NAME=RUN", help="folders of python -m train; a name for each")
    p.add_argument("--images", type=Path, required=True, help="folder of images that no masker has seen")
    p.add_argument("--baselines", nargs="*", default=list(DEFAULT_BASELINES), choices=list(BASELINES))
    p.add_argument("--most", type=int, default=CHEAP.images, help="images to explain (%(default)s)")
    p.add_argument("--weights", help="where the encoder's weights are now")
    p.add_argument("--quick", action="store_true", help="a few images a method: does everything run?")
    o = p.parse_args()
    encoder, methods = methods_of(runs_of(o.runs), o.baselines, weights=o.weights)
    seen = subject_of(encoder, o.images, most=o.most)
    o.json.parent.mkdir(parents=True, exist_ok=True)
    rows = [row_of(method, seen, quick=o.quick) for method in tqdm(methods, desc="own")]
    result = {"meta": meta(), "encoder": dataclasses.asdict(encoder.record), "rows": rows}
    print(tables(result))
    write(o.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
