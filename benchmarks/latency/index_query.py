"""What a search costs beyond the encoder: the nearest of an index, in each store that is installed.

python -m benchmarks.index_query --rows 10000 --dimension 1280 --json benchmarks/results/index_query.json
"""

from __future__ import annotations

import functools
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.interleave import wall_clock
from benchmarks.common.record import command, finish
from runtime.errors import BackendUnavailable
from runtime.index import LEVELS, Row, encode_mask
from runtime.index.stores import STORES

LIBRARIES = {"parquet": "pyarrow", "lancedb": "lancedb", "qdrant": "qdrant-client"}


def rows(number: int, dimension: int) -> list[Row]:
    """Random vectors; the mask code is that of noise, as long as a code can be."""
    random = np.random.default_rng(0)
    code = encode_mask(random.random((224, 224)))
    common: dict[str, Any] = {"embedding_id": "random", "mask_code": code, "kept": 0.9}
    return [
        Row(name=f"{i}", image=f"{i}.jpg", embedding=vector, curve=(0.5,) * len(LEVELS), **common)
        for i, vector in enumerate(random.standard_normal((number, dimension), np.float32))
    ]


def measured(name: str, written: list[Row], *, k: int, queries: int) -> dict[str, Any]:
    """A row of the table."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        STORES[name].write(Path(folder), written)
        wrote = time.perf_counter()
        with closing(STORES[name](Path(folder))) as store:
            store.nearest(written[0].embedding, k)
            opened = time.perf_counter()
            asked = random.standard_normal((queries, written[0].embedding.size), np.float32)
            milliseconds = [wall_clock(functools.partial(store.nearest, query, k)) for query in asked]
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "store": name,
        "library": f"{LIBRARIES[name]} {version(LIBRARIES[name])}",
        "rows": len(written),
        "dimension": written[0].embedding.size,
        "k": k,
        "n": queries,
        "median_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.percentile(milliseconds, 95)),
        "write_s": wrote - began,
        "open_and_first_query_s": opened - wrote,
        "bytes_per_row": size / len(written),
    }


def main(argv: list[str] | None = None) -> None:
    parser = command("index_query", __doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=50)
    options = parser.parse_args(argv)
    written, table, skipped = rows(options.rows, options.dimension), [], {}
    for name in STORES:
        try:
            table.append(measured(name, written, k=options.k, queries=options.queries))
        except BackendUnavailable as error:
            skipped[name] = error.came
            print(f"{name} left out: {error.came}")
    finish(options.json, table, left_out=skipped)


if __name__ == "__main__":
    main()
