"""Which library calls CUDA for the TensorRT backend.

    NEMU_CUDA=pycuda python application.py    # or cuda-bindings: your choice instead

Otherwise it is NVIDIA's cuda-bindings, or PyCUDA where only that is installed.  Both use the primary context
of the device, which the host application's libraries share, and only inside `with cuda.current(index):`.
At its end, the context that was current in the calling thread before is current again.
"""

from __future__ import annotations

import functools
import os
from importlib.util import find_spec

from runtime.backends.cuda.base import Cuda, DeviceInfo, DriverInfo
from runtime.backends.cuda.bindings import CudaBindings
from runtime.backends.cuda.pycuda import PyCuda
from runtime.errors import BackendUnavailable, InputError

__all__ = ["Cuda", "DeviceInfo", "DriverInfo", "device", "driver", "implementation", "installed"]

VARIABLE = "NEMU_CUDA"
NAMES = ("cuda-bindings", "pycuda")


def implementation() -> Cuda:
    """The library that calls CUDA: one object per process.

    Raises:
        InputError: `NEMU_CUDA` names an unknown library.
        BackendUnavailable: no library is installed, or the installed one does not load.
    """
    return _implementation(os.environ.get(VARIABLE, ""))


@functools.cache
def _implementation(name: str) -> Cuda:
    if name and name not in NAMES:
        raise InputError(f"{VARIABLE}={name!r}", expected=" or ".join(NAMES), cure=f"unset {VARIABLE}")
    if name == "pycuda" or (not name and not installed("cuda.bindings", "cuda.cuda") and installed("pycuda")):
        return PyCuda()
    return CudaBindings()


def installed(*modules: str) -> bool:
    """Whether any of the modules can be found.  It imports parent packages, but not the modules."""
    for module in modules:
        try:
            if find_spec(module):
                return True
        except (ImportError, ValueError):  # no parent package, or a module without a spec
            continue
    return False


def driver() -> DriverInfo:
    """Probe the driver; safe on a machine without one.  Call it before any TensorRT runtime exists.

    Raises:
        BackendUnavailable: there is no library, no driver or no device, or the driver does not work.
    """
    return implementation().driver()


def device(index: int = 0) -> DeviceInfo:
    """Name and properties of a device.

    Raises:
        BackendUnavailable: as for `driver`, or no device has that index.
    """
    cuda = implementation()
    count = cuda.driver().devices
    if not 0 <= index < count:
        raise BackendUnavailable(
            f"device {index}",
            expected=f"0 to {count - 1}: {count} device(s) are visible",
            cure="choose another device, or check CUDA_VISIBLE_DEVICES",
        )
    return cuda.device(index)
