"""CUDA, as little of it as the TensorRT backend needs, and which library it is called through.

    NEMU_CUDA=pycuda python application.py    # or cuda-bindings: your choice instead

Otherwise NVIDIA's cuda-bindings, and PyCUDA where only that is installed.  Both work in the primary context
of the device, which the host application's libraries share, and only between `with cuda.current(index):`
and its end: what was current in the calling thread before is current again afterwards.
"""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from runtime.errors import BackendUnavailable, InputError

VARIABLE = "NEMU_CUDA"
NAMES = ("cuda-bindings", "pycuda")


@dataclass(frozen=True, kw_only=True)
class DriverInfo:
    """The driver, and how much there is to drive."""

    cuda: str
    """Newest CUDA version that the driver supports, e.g. `13.0`."""
    devices: int


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One GPU."""

    index: int
    name: str
    compute_capability: str
    """Such as `8.7`."""
    memory_bytes: int
    integrated: bool
    """It shares memory with the CPU, as on a Jetson."""
    mapped_input: bool = False
    """An input is best read in place from the host's page-locked memory, see `reads_in_place`."""


class Cuda(Protocol):
    """What a library must offer.  Pointers, streams and graphs are the driver's own handles, as ints;
    an event is an int that only this object knows.

    Every call that fails raises `BackendError` with CUDA's own name for the failure.  All but `driver`,
    `device` and `current` are for a thread that is inside `current`.
    """

    name: str
    """Library and version."""
    no_graphs: str
    """Why there are no CUDA graphs; empty if there are."""

    def driver(self) -> DriverInfo:
        """See the function `driver`."""

    def device(self, index: int) -> DeviceInfo:
        """Properties of a device that exists."""

    def current(self, index: int) -> AbstractContextManager[None]:
        """Make the primary context of a device current in the calling thread, until the end of one `with`.

        Captures of other threads neither hinder what the thread calls there, nor are they broken by it.
        """

    def malloc(self, nbytes: int) -> int:
        """Memory on the device, aligned to 256 bytes."""

    def free(self, pointer: int) -> None:
        """Give back what `malloc` gave."""

    def host_alloc(self, nbytes: int, *, mapped: bool) -> int:
        """Page-locked memory of the host; `mapped` if the device is to read it in place."""

    def host_free(self, pointer: int) -> None:
        """Give back what `host_alloc` gave."""

    def mapped_pointer(self, pointer: int) -> int:
        """The device's address of memory that is mapped."""

    def stream_create(self) -> int:
        """A stream that does not wait for the default stream."""

    def stream_destroy(self, stream: int) -> None:
        """Give back what `stream_create` gave."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything enqueued so far is done; errors of it are raised here."""

    def copy_in(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """From host to device, on `stream`."""

    def copy_out(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """From device to host, on `stream`; the host has it after `synchronize`."""

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """From device to device, on `stream`."""

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        """Set every byte of device memory, on `stream`."""

    def event_create(self) -> int:
        """An event, without timing.  Before it is recorded, it is done."""

    def event_record(self, event: int, stream: int) -> None:
        """The event is done when all is done that is enqueued on `stream` so far; `stream` as in `order`."""

    def event_done(self, event: int) -> bool:
        """Whether it is, without waiting.  Not while this thread records a graph."""

    def event_synchronize(self, event: int) -> None:
        """Wait until it is done; errors of what was before it are raised here."""

    def event_destroy(self, event: int) -> None:
        """Give back what `event_create` gave; it need not be done."""

    def order(self, first: int, then: int, event: int) -> None:
        """What is enqueued on stream `then` from now on waits for all that is on `first`.

        One of the two may be a stream of the host application; 0 and 1 are the legacy default stream.

        Args:
            event: of `event_create`; recorded on `first` for this, and free for anything else at once.
        """

    def check_pointer(self, pointer: int, nbytes: int, index: int) -> None:
        """Raise `InputError` unless this is device memory that the primary context of `index` can read."""

    def is_capturing(self, stream: int) -> bool:
        """Whether what is enqueued on a stream, of the host application too, is recorded and not done."""

    def begin_capture(self, stream: int) -> None:
        """What is enqueued on `stream` by this thread is recorded from now on, not done."""

    def end_capture(self, stream: int) -> int:
        """The graph that was recorded, ready to be launched."""

    def graph_launch(self, graph: int, stream: int) -> None:
        """Do on `stream` what was recorded."""

    def graph_destroy(self, graph: int) -> None:
        """Give back what `end_capture` gave."""


def implementation() -> Cuda:
    """The library that CUDA is called through: one object per process.

    Raises:
        InputError: `NEMU_CUDA` names no library that is known.
        BackendUnavailable: none is installed, or the one that is does not load.
    """
    return _implementation(os.environ.get(VARIABLE, ""))


@functools.cache
def _implementation(name: str) -> Cuda:
    if name and name not in NAMES:
        raise InputError(f"{VARIABLE}={name!r}", expected=" or ".join(NAMES), cure=f"unset {VARIABLE}")
    if name == "pycuda" or (not name and not installed("cuda.bindings", "cuda.cuda") and installed("pycuda")):
        from runtime.backends.cuda_pycuda import PyCuda

        return PyCuda()
    from runtime.backends.cuda_bindings import CudaBindings

    return CudaBindings()


def installed(*modules: str) -> bool:
    """Whether any of them can be found; parent packages are imported, they are not."""
    for module in modules:
        try:
            if find_spec(module):
                return True
        except (ImportError, ValueError):  # no parent package; or a module made by hand, without a spec
            continue
    return False


def driver() -> DriverInfo:
    """Probe the driver; safe on a machine that has none.  Call it before any TensorRT runtime exists.

    Raises:
        BackendUnavailable: no library, no driver, a driver that does not work, or no device.
    """
    return implementation().driver()


def device(index: int = 0) -> DeviceInfo:
    """Name and properties of a device.

    Raises:
        BackendUnavailable: as `driver`, or no device has that index.
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


def reads_in_place(*, integrated: bool, can_map: bool, pageable_access: bool) -> bool:
    """Whether the GPU had better read an input from the host's page-locked memory than from a copy.

    On a Jetson Orin, yes: GPU and CPU share the memory, and a frame is read once, so that it does not matter
    that the GPU does not cache such memory.  Where the GPU can also read pageable memory (Thor: coherent
    both ways), page-locked memory is the one kind that it does not cache, and a copy is better.  Elsewhere
    the memory is at the other end of a bus.
    """
    return integrated and can_map and not pageable_access


def no_driver(*, version: str, why: str) -> BackendUnavailable:
    """The error of `driver`.

    Args:
        version: newest CUDA that the driver supports; `0.0` if there is none.
        why: CUDA's own words.
    """
    came = "there is no NVIDIA driver" if version == "0.0" else f"the NVIDIA driver is for CUDA {version}"
    return BackendUnavailable(
        f"{came} ({why})",
        expected="an NVIDIA driver, and a device that it can use",
        cure="install an NVIDIA driver: r580 or newer for a TensorRT of CUDA 13, r535 or newer for one of "
        "CUDA 12; or use the CPU: backend='onnxruntime'",
    )


def dotted(version: int) -> str:
    """CUDA's number for a version as people write it: 13020 is `13.2`."""
    return f"{version // 1000}.{version % 1000 // 10}"
