"""How long `import runtime` takes beyond `import numpy`, each in a fresh interpreter, interleaved.

python -m benchmarks.import_time --json benchmarks/results/import_time.json
"""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np

from benchmarks.common.interleave import interleave
from benchmarks.common.record import command, finish

STATEMENTS = {
    "numpy": "import numpy",
    "runtime": "import runtime",
    "every module of runtime": "import importlib, pkgutil, runtime; "
    "[importlib.import_module(m.name) for m in pkgutil.walk_packages(runtime.__path__, 'runtime.') "
    "if not m.name.endswith('__main__')]",
}


def main() -> int:
    """Returns 0."""
    parser = command("import_time", __doc__)
    parser.add_argument("-n", type=int, default=40, help="interpreters for each statement (%(default)s)")
    options = parser.parse_args()
    calls = {
        name: functools.partial(subprocess.run, [sys.executable, "-c", statement], check=True)
        for name, statement in STATEMENTS.items()
    }
    times = interleave(calls, rounds=options.n, warm_up=2)
    rows = [
        {
            "statement": name,
            "median_ms": float(np.median(own)),
            "beyond_numpy_median_ms": float(np.median(own - times["numpy"])),
            "beyond_numpy_p95_ms": float(np.percentile(own - times["numpy"], 95)),
            "n": len(own),
        }
        for name, own in times.items()
    ]
    return finish(options.json, rows)


if __name__ == "__main__":
    sys.exit(main())
