"""python -m benchmarks.defects: see benchmarks.quality.defects.run."""

import sys

from benchmarks.quality.defects.run import main

if __name__ == "__main__":
    sys.exit(main())
