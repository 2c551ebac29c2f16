"""How many threads to compute on: cores this process may use, within its quota, and no more than help.

    NEMU_THREADS=4 python application.py    # your number instead

Otherwise the least of
    physical cores among the CPUs that this process may use (`taskset` and cpusets are honoured): the second
    hyperthread of a core shares the arithmetic units that convolutions keep busy;
    the CPU quota of its control group (`docker run --cpus`), rounded up, because a thread beyond the quota
    only makes all of them wait for the next period;
    16: one image is too little work for more, and every operator ends with all threads waiting for the last.
    For throughput on a larger machine run several processes, each on its own CPUs.
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
    """Threads for one process on this machine, at least 1.

    Args:
        root: where `sys` and `proc` are mounted; tests point it elsewhere.

    Raises:
        InputError: `NEMU_THREADS` is set and is not a positive whole number.
    """
    if chosen := os.environ.get(VARIABLE):
        if not (chosen.isascii() and chosen.isdigit() and int(chosen)):
            raise InputError(
                f"{VARIABLE}={chosen!r}", expected="a whole number, 1 or more", cure=f"unset {VARIABLE}"
            )
        return int(chosen)
    quota = math.ceil(min(_quotas(root), default=MOST))
    return max(1, min(_cores(root, _usable_cpus()), quota, MOST))


def _usable_cpus() -> Iterable[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return affinity(0) if affinity else range(os.cpu_count() or 1)


def _cores(root: Path, cpus: Iterable[int]) -> int:
    """Physical cores among `cpus`; where the system does not say which CPUs share one, every CPU is one."""
    siblings = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    return len({_text(file) or str(file) for file in siblings})


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each limit on this process allows; control groups of version 2, then of version 1."""
    groups = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # Inside a container the path may be the host's, of which only the top is mounted.
        inner = Path(path.lstrip("/"))
        for folder in {mount / part for part in (inner, *inner.parents)}:
            limit = _text(folder / "cpu.max").split() or [
                _text(folder / "cpu.cfs_quota_us"),
                _text(folder / "cpu.cfs_period_us"),
            ]
            if all(number.isdigit() for number in limit):  # not `max` or -1
                yield int(limit[0]) / int(limit[1])


def _text(file: Path) -> str:
    """What a file of the kernel says; empty where this kernel has no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
