"""python -m benchmarks.latency: see benchmarks.latency.run."""

import sys

from benchmarks.latency.run import main

if __name__ == "__main__":
    sys.exit(main())
