"""python -m benchmarks.natural: see benchmarks.quality.natural.run."""

import sys

from benchmarks.quality.natural.run import main

if __name__ == "__main__":
    sys.exit(main())
