"""Energy of a GPU as NVML counts it."""

from __future__ import annotations

from benchmarks.common.interleave import Call
from benchmarks.common.nvml import NoNvml, Nvml


def joules_per_call(call: Call, *, calls: int, device: int = 0, finish: Call | None = None) -> float | None:
    """Mean energy of the whole GPU over back-to-back calls, idle power included; None where NVML has none.

    Args:
        finish: waits until everything that was called is done, where a call does not.

    Not run on a GPU yet.
    """
    try:
        meter = Nvml(device)
        before = meter.joules()
        for _ in range(calls):
            call()
        if finish is not None:
            finish()
        return (meter.joules() - before) / calls
    except NoNvml:
        return None


def no_energy(device: int = 0) -> str:
    """Why `joules_per_call` gives None here; empty if it does not."""
    try:
        Nvml(device).joules()
    except NoNvml as error:
        return str(error)
    return ""
