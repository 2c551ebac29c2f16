"""Reads arrays of the host application that are on the GPU: their address, and the stream that fills them.

An array with DLPack (torch, CuPy) is read by DLPack: its library makes our stream wait for its own, and names
the device.  Other arrays are read by the CUDA array interface, version 2 or 3 (PyCUDA, Numba).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runtime.device_explanation import CUDA, tensor_of
from runtime.errors import InputError

LEGACY_DEFAULT_STREAM = 1
_CUDA_MANAGED = 13  # DLDeviceType
_UNSIGNED = 1  # DLDataTypeCode
_CURE = "give a C-contiguous uint8 array of the graph's size; the explainer itself takes arrays of the host"


class Source(NamedTuple):
    """Images on a GPU, uint8 (N, height, width, 3), C-contiguous."""

    pointer: int
    shape: tuple[int, ...]
    stream: int | None
    """The stream that fills it; None if the stream given to `read` already waits for it."""
    owner: Any
    """Keeps the memory alive."""


def read(array: Any, stream: int, device: int) -> Source:
    """Read the address, shape and stream of an array.

    Args:
        array: of torch, CuPy, PyCUDA, or another library with one of the two protocols.
        stream: the stream that will read it.
        device: number of the GPU that it must be on; checked if the array names its device.

    Raises:
        InputError: it is not on that GPU, not uint8, or not C-contiguous.
    """
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _from_dlpack(array, stream, device)
    if hasattr(array, "__cuda_array_interface__"):
        return _from_interface(array)
    raise InputError(
        f"run_device was given a {type(array).__name__}",
        expected="an array on a GPU: __dlpack__ or __cuda_array_interface__",
        cure=_CURE,
    )


def stream_handle(stream: Any) -> int:
    """The `cudaStream_t` of a stream of PyCUDA, torch, CuPy or cuda.core, or a number.

    Raises:
        InputError: it is another type.
    """
    handle = stream
    if hasattr(stream, "__cuda_stream__"):
        version, handle = stream.__cuda_stream__()
        if version != 0:
            raise InputError(
                f"stream: a {type(stream).__name__} of version {version} of __cuda_stream__",
                expected="version 0",
                cure="give its cudaStream_t as a number",
            )
        return int(handle)
    for name in ("handle", "cuda_stream", "ptr"):
        handle = getattr(handle, name, handle)
    if not isinstance(handle, int):
        raise InputError(
            f"stream: a {type(stream).__name__}",
            expected="a stream of PyCUDA, torch, CuPy or cuda.core, or a cudaStream_t as a number",
            cure="leave it out if the array names the stream that fills it",
        )
    return handle


def _from_interface(array: Any) -> Source:
    facts = array.__cuda_array_interface__
    shape = tuple(int(side) for side in facts["shape"])
    _check_type(facts["typestr"] == "|u1", facts["typestr"])
    _check_strides(shape, facts.get("strides"))
    if (stream := facts.get("stream")) == 0:
        raise InputError(
            "an array whose stream is 0",
            expected="1, 2, a handle or None",
            cure="use a newer version of its library",
        )
    # PyCUDA gives None even while its default stream writes; before version 3 no library names a stream.
    ready_on = LEGACY_DEFAULT_STREAM if stream is None else int(stream)
    return Source(pointer=int(facts["data"][0]), shape=shape, stream=ready_on, owner=array)


def _from_dlpack(array: Any, stream: int, device: int) -> Source:
    kind, index = (int(number) for number in array.__dlpack_device__())
    if kind not in (CUDA, _CUDA_MANAGED):
        raise InputError(
            f"an array on a device of kind {kind} of DLPack (1 is the CPU)",
            expected="an array on a GPU of NVIDIA",
            cure="call the explainer itself for arrays of the host",
        )
    if kind == CUDA and index != device:  # before its library gets `stream`, which is of this device
        raise InputError(
            f"an array on device {index}",
            expected=f"an array on device {device}, where the engine is",
            cure=f"open the Explainer with device={index}, or copy the array",
        )
    capsule = array.__dlpack__(stream=stream)
    tensor = tensor_of(capsule)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    kind_of_value = (tensor.code, tensor.bits, tensor.lanes)
    _check_type(kind_of_value == (_UNSIGNED, 8, 1), f"DLPack code, bits, lanes {kind_of_value}")
    # DLPack strides count elements, those of the interface count bytes: equal for uint8.
    _check_strides(shape, [tensor.strides[axis] for axis in range(tensor.ndim)] if tensor.strides else None)
    pointer = (tensor.data or 0) + tensor.byte_offset
    # We keep the capsule unused: it holds the memory as long as it lives.
    return Source(pointer=pointer, shape=shape, stream=None, owner=capsule)


def _check_type(right: bool, came: str) -> None:
    if not right:
        raise InputError(f"an array of type {came}", expected="uint8", cure=_CURE)


def _check_strides(shape: tuple[int, ...], strides: Any) -> None:
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if side != 1 and stride != step:
            raise InputError(f"an array with strides {tuple(strides)}", expected="C-contiguous", cure=_CURE)
        step *= side
