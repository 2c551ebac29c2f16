"""Energy and memory of one process, read from NVIDIA's management library (NVML).  Nothing is set.

The library comes with the driver and is called by ctypes, because the Python packages that wrap it, and their
names, differ from machine to machine.
"""

from __future__ import annotations

import ctypes
import os

from benchmarks.common.interleave import Call

LIBRARY = "libnvidia-ml.so.1"
_NOT_AVAILABLE = 2**64 - 1
_PROCESSES = 64


class NoNvml(Exception):
    """NVML does not give a figure here; the message says why."""


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, as `nvmlDeviceGetComputeRunningProcesses_v3` fills it."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """One GPU.

    Args:
        device: number of the GPU in NVML's order, which ignores CUDA_VISIBLE_DEVICES.

    Raises:
        NoNvml: there is no library, no driver, or no such device.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NoNvml(f"no NVML: {error}") from error
        self._call("nvmlInit_v2")
        self._handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", device, ctypes.byref(self._handle))

    def joules(self) -> float:
        """Energy in joules that the whole GPU has used since the driver was loaded.

        Raises:
            NoNvml: this GPU has no such counter.
        """
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def process_bytes(self) -> int:
        """Bytes of GPU memory that this process holds.

        Raises:
            NoNvml: NVML gives no figure, or several processes run and none has this process's number, as in
                a container.
        """
        count, found = ctypes.c_uint(_PROCESSES), (_Process * _PROCESSES)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", self._handle, ctypes.byref(count), found)
        running = found[: count.value]
        mine = [process for process in running if process.pid == os.getpid()] or running
        if len(mine) != 1 or mine[0].bytes == _NOT_AVAILABLE:
            raise NoNvml(f"NVML lists {len(running)} processes, and not the memory of this one")
        return int(mine[0].bytes)

    def _call(self, name: str, *arguments: object) -> None:
        try:
            error = getattr(self._library, name)(*arguments)
        except AttributeError as missing:
            raise NoNvml(f"NVML of this driver has no {name}") from missing
        if error:
            self._library.nvmlErrorString.restype = ctypes.c_char_p
            raise NoNvml(f"{name}: {self._library.nvmlErrorString(error).decode()}")


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
