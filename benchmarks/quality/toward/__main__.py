"""python -m benchmarks.toward: see benchmarks.quality.toward.run."""

import sys

from benchmarks.quality.toward.run import main

if __name__ == "__main__":
    sys.exit(main())
