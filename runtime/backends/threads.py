"""Number of threads to compute with.

    NEMU_THREADS=4 python application.py    # your number instead

Otherwise the smallest of
    the number of physical cores among the CPUs that this process may use (`taskset` and cpusets count): the
    second hyperthread of a core shares the arithmetic units that convolutions keep busy;
    the CPU quota of its control group (`docker run --cpus`), rounded up: with a thread more, all threads
    would wait for the next period;
    16: one image is too little work for more, and at the end of every operator all threads wait for the last.
    For more throughput on a larger machine, run several processes, each on its own CPUs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.errors import InputError

VARIABLE = "NEMU_THREADS"
MOST = 16


def thread_count(root: Path = Path("/")) -> int:
    """Number of threads for one process on this machine, at least 1.

    Args:
        root: the folder with `sys` and `proc`; tests use another one.

    Raises:
        InputError: `NEMU_THREADS` is set and is not a positive whole number.
    """
    if chosen := os.environ.get(VARIABLE):
        if not (chosen.isascii() and chosen.isdigit() and int(chosen)):
            raise InputError(
                f"{VARIABLE}={chosen!r}", expected="a whole number, 1 or more", cure=f"unset {VARIABLE}"
            )
        return int(chosen)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    usable = affinity(0) if affinity else range(os.cpu_count() or 1)
    quota = math.ceil(min(_quotas(root), default=MOST))
    return max(1, min(_cores(root, usable), quota, MOST))


def _cores(root: Path, cpus: Iterable[int]) -> int:
    """Physical cores among `cpus`; each CPU counts as one if the system does not tell which share a core."""
    siblings = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    return len({_text(file) or str(file) for file in siblings})


def _quotas(root: Path) -> Iterator[float]:
    """The number of CPUs that each quota of this process allows; control groups of versions 1 and 2."""
    groups = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # Inside a container the path may be the host's, and only its top folder is mounted.
        inner = Path(path.lstrip("/"))
        for folder in {mount / part for part in (inner, *inner.parents)}:
            limit = _text(folder / "cpu.max").split() or [
                _text(folder / "cpu.cfs_quota_us"),
                _text(folder / "cpu.cfs_period_us"),
            ]
            if all(number.isdigit() for number in limit):  # otherwise it is `max` or -1
                yield int(limit[0]) / int(limit[1])


def _text(file: Path) -> str:
    """Content of a kernel file; empty if this kernel has no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
