"""python -m benchmarks.training: see benchmarks.training.run."""

import sys

from benchmarks.training.run import main

if __name__ == "__main__":
    sys.exit(main())
