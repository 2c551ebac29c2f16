"""Energy of a GPU as NVML counts it."""

from __future__ import annotations

from benchmarks.interleave import Call


def joules_per_call(call: Call, *, calls: int, device: int = 0, finish: Call | None = None) -> float | None:
    """Mean energy of the whole GPU over back-to-back calls, idle power included; None where NVML has none.

    Args:
        finish: waits until everything that was called is done, where a call does not.

    Not run on a GPU yet: NVML's counter is in millijoules since the driver was loaded.
    """
    try:
        from cuda.bindings import nvml
    except ImportError:
        return None
    try:
        nvml.init_v2()
        handle = nvml.device_get_handle_by_index_v2(device)
        before = nvml.device_get_total_energy_consumption(handle)
        for _ in range(calls):
            call()
        if finish is not None:
            finish()
        return (nvml.device_get_total_energy_consumption(handle) - before) / 1e3 / calls
    except (nvml.NvmlError, RuntimeError):  # no NVIDIA driver, or a GPU without the counter
        return None
