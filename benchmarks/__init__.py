"""What nemu costs and how good its masks are.

A command is known by its short name, whichever folder it lies in: `python -m benchmarks.zoo` runs
benchmarks/latency/zoo.py.  Code imports modules by their full name.
"""

from pathlib import Path

_FOLDERS = (
    "latency",
    "pages",
    "quality",
    "quality/planted",
    "quality/natural",
    "quality/toward",
    "quality/defects",
)
__path__ += [str(Path(__file__).parent / folder) for folder in _FOLDERS]
