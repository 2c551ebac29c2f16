"""Score maskers on the composites of `python -m benchmarks.natural`, as they were trained: sizes and crop.

python -m benchmarks.natural_masker --masker RUN/masker.safetensors … --data DATA --json FILE
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from benchmarks.common.record import command, exits, meta, write_compact
from benchmarks.quality import maskers
from benchmarks.quality.natural.jobs import row_of
from benchmarks.quality.natural.methods import NEMU
from benchmarks.quality.natural.natural_tables import KIND
from benchmarks.quality.natural.subject import digest, subject
from benchmarks.quality.scoring import Row, maps_of, measured
from train.checkpoint import MaskerFile
from train.run_folder import run_of


@exits
def main() -> int:
    """Returns 0; 1 with a message."""
    p = command("natural_masker", __doc__)
    p.add_argument("--masker", type=Path, nargs="+", required=True, help="each in its run's folder")
    p.add_argument("--data", type=Path, required=True, help="what python -m benchmarks.natural_data made")
    p.add_argument("--images", type=int, default=100, help="composites (%(default)s)")
    o = p.parse_args()
    rows = [row(masker, o.data, o.images) for masker in o.masker]
    write_compact(o.json, {"meta": {**meta(), "data": digest(o.data)}, "rows": rows})
    return 0


def row(masker: Path, data: Path, images: int) -> Row:
    """Row with the keys of `python -m benchmarks.natural`."""
    file = MaskerFile.open(masker)
    nem, config, run = file.nem(), file.config, run_of(file)
    seen = subject(nem.encoder, data, images)
    maps = maps_of(functools.partial(maskers.mask, nem.masker), nem.encoder, seen.x)
    values = measured(seen, maps, is_mask=True, faithfulness=images, seed=config.seed)
    name = config.encoder.encoder.removeprefix("timm/")
    facts = {"encoder": name, "method": NEMU, "seed": config.seed, "kind": KIND, "truth": "object"}
    if run is not None:
        facts |= {"area_weight": run.area_weight, "train_steps": run.steps, "train_seconds": run.seconds}
    return {**facts, "batch_size": config.batch_size, **row_of(seen, values)}


if __name__ == "__main__":
    sys.exit(main())
