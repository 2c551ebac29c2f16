"""Limits of this machine: processes that decode images, allocator, half precision."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
from pathlib import Path

import torch

from runtime.errors import InputError

log = logging.getLogger("nemu.train")

MOST_WORKERS = 8
PREFETCH = 2
"""Batches that each worker decodes ahead."""
SHARED_MEMORY = Path("/dev/shm")
"""Shared memory in which workers pass batches; 64 MB by default in a container."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Constants of glibc's malloc.h."""


def default_workers(*, batch_bytes: int, processes: int = 1) -> int:
    """Number of processes that decode images for one training process.

    With a GPU: one for each CPU of this training process but one, at most 8.  Without a GPU the same CPUs
    also train, and one worker is enough to have the next batch ready; with a single CPU, none.  Never more
    than fit into shared memory.

    Args:
        batch_bytes: size of one process's part of a batch.
        processes: training processes on this machine.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cpus // processes)
    wanted = min(MOST_WORKERS, share - 1) if torch.cuda.is_available() else min(1, share - 1)
    if not SHARED_MEMORY.is_dir():
        return wanted
    room = shutil.disk_usage(SHARED_MEMORY).free // processes
    return min(wanted, room // (2 * PREFETCH * batch_bytes))  # twice, for batches in transit


def keep_memory() -> bool:
    """Tell glibc to keep freed memory, for this whole process; returns whether glibc accepted.

    By default large blocks return to the kernel at once and come back as new pages: about 60,000 page faults
    a step.  Only for a command line: a library must not change its host's allocator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def check_precision(precision: str) -> None:
    """Warn at the start of a precision that is slow on this machine.

    Raises:
        InputError: float16 without a GPU, which PyTorch does not train in.
    """
    if precision == "32-true" or torch.cuda.is_available():
        return
    if precision == "16-mixed":
        raise InputError(
            "--precision 16-mixed on a machine without a CUDA GPU",
            expected="a GPU, because PyTorch does not train in float16 on a CPU",
            cure="--precision 32-true",
        )
    if not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        log.warning(
            "PyTorch finds no bfloat16 instructions in this CPU: --precision bf16-mixed is emulated, and "
            "takes several times as long as --precision 32-true"
        )
