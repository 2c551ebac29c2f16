"""How long `import runtime` takes beyond `import numpy`, each in a fresh interpreter, interleaved.

python -m benchmarks.import_time --json benchmarks/results/import_time.json
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.common.interleave import wall_clock
from benchmarks.common.record import command, finish

STATEMENTS = {
    "numpy": "import numpy",
    "runtime": "import runtime",
    "every module of runtime": "import importlib, pkgutil, runtime; "
    "[importlib.import_module(m.name) for m in pkgutil.walk_packages(runtime.__path__, 'runtime.') "
    "if not m.name.endswith('__main__')]",
}


def seconds(statement: str) -> float:
    """Wall time of an interpreter that runs one statement."""
    return wall_clock(lambda: subprocess.run([sys.executable, "-c", statement], check=True)) / 1e3


def main() -> None:
    parser = command("import_time", __doc__)
    parser.add_argument("-n", type=int, default=40, help="interpreters for each statement (%(default)s)")
    options = parser.parse_args()
    runs: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for i in range(options.n + 2):
        for name, statement in STATEMENTS.items():
            taken = seconds(statement)
            if i >= 2:  # the first two warm the disk
                runs[name].append(taken)
    base = runs["numpy"]
    rows = []
    for name, times in runs.items():
        beyond = sorted(a - b for a, b in zip(times, base, strict=True))
        rows.append(
            {
                "statement": name,
                "median_ms": 1000 * statistics.median(times),
                "beyond_numpy_median_ms": 1000 * statistics.median(beyond),
                "beyond_numpy_p95_ms": 1000 * beyond[int(0.95 * (len(beyond) - 1))],
                "n": len(times),
            }
        )
    finish(options.json, rows)


if __name__ == "__main__":
    main()
