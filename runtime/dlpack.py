"""The part of DLPack that arrays on a GPU need: reading a capsule, and making one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CUDA = 2
"""`kDLCUDA` of DLDeviceType."""


class Tensor(ctypes.Structure):
    """DLTensor, as in a capsule without a version."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def tensor_of(capsule: Any) -> Tensor:
    """The tensor in a capsule that nobody has taken yet; valid while the capsule lives."""
    return Tensor.from_address(_pointer_of(capsule, b"dltensor"))


def capsule_of(pointer: int, shape: tuple[int, ...], *, device: int, owner: object) -> Any:
    """Make a capsule of C-contiguous float32 memory on a GPU.

    NumPy makes the capsule from an array that it takes for host memory and never reads.  So the code that
    releases it is C, which may run in any thread and while an exception is raised; a Python callback may not.

    Args:
        pointer, shape: address and shape of the memory.
        device: number of the GPU.
        owner: kept alive until the reader releases the memory, or until an untaken capsule is deleted.
    """
    memory: Any = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    memory.owner = owner
    capsule = np.ndarray(shape, np.float32, buffer=memory).__dlpack__()
    tensor = tensor_of(capsule)
    tensor.device_type, tensor.device_id = CUDA, device
    return capsule
