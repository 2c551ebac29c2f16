"""What every CUDA library must offer to the TensorRT backend, and the records that it fills in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import BackendUnavailable


@dataclass(frozen=True, kw_only=True)
class DriverInfo:
    """The driver and the number of its devices."""

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
    """True if the GPU shares memory with the CPU, as on a Jetson."""
    mapped_input: bool = False
    """True if the GPU should read an input directly from page-locked host memory instead of from a copy.

    On a Jetson Orin, yes: GPU and CPU share the memory.  The GPU does not cache page-locked memory, but it
    reads each frame only once.  Where the GPU can also read pageable memory (Thor: coherent both ways), it
    caches every kind of memory except page-locked memory, so a copy is faster.  On other machines a read of
    host memory crosses a bus.
    """


class Cuda(Protocol):
    """The interface of a CUDA library.

    Pointers, streams and graphs are the driver's handles, as ints.  An event is an int that only this object
    can use.  A call that fails raises `BackendError` with CUDA's name for the failure.  All methods except
    `driver`, `device` and `current` must be called inside `with current(...)`.
    """

    name: str
    """Library and version."""
    no_graphs: str
    """Why the library has no CUDA graphs; empty if it has them."""

    def driver(self) -> DriverInfo:
        """See `runtime.backends.cuda.driver`."""

    def device(self, index: int) -> DeviceInfo:
        """Properties of an existing device."""

    def current(self, index: int) -> AbstractContextManager[None]:
        """Make a device's primary context current in the calling thread, until the end of one `with`.

        Calls inside it do not break stream captures of other threads, and those do not make the calls fail.
        """

    def malloc(self, nbytes: int) -> int:
        """Allocate device memory, aligned to 256 bytes."""

    def free(self, pointer: int) -> None:
        """Free memory from `malloc`."""

    def host_alloc(self, nbytes: int, *, mapped: bool) -> int:
        """Allocate page-locked host memory; `mapped` lets the device read it directly."""

    def host_free(self, pointer: int) -> None:
        """Free memory from `host_alloc`."""

    def mapped_pointer(self, pointer: int) -> int:
        """The device's address of mapped host memory."""

    def stream_create(self) -> int:
        """Create a stream that does not wait for the default stream."""

    def stream_destroy(self, stream: int) -> None:
        """Destroy a stream from `stream_create`."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on `stream` so far; raises its errors."""

    def copy_in(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from host to device, on `stream`."""

    def copy_out(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from device to host, on `stream`; the data is there after `synchronize`."""

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from device to device, on `stream`."""

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        """Set every byte of device memory, on `stream`."""

    def event_create(self) -> int:
        """Create an event without timing.  It counts as done until it is recorded."""

    def event_record(self, event: int, stream: int) -> None:
        """Record an event: it is done when all work on `stream` so far is done; `stream` as in `order`."""

    def event_done(self, event: int) -> bool:
        """Whether an event is done, without waiting.  Do not call it while this thread captures a graph."""

    def event_synchronize(self, event: int) -> None:
        """Wait until an event is done; raises errors of the work before it."""

    def event_destroy(self, event: int) -> None:
        """Destroy an event from `event_create`, done or not."""

    def order(self, first: int, then: int, event: int) -> None:
        """Make later work on stream `then` wait for all work that is now on stream `first`.

        One of the two may be a stream of the host application; 0 and 1 are the legacy default stream.

        Args:
            event: from `event_create`.  It is recorded on `first`, and may be used again at once.
        """

    def check_pointer(self, pointer: int, nbytes: int, index: int) -> None:
        """Raise `InputError` unless the primary context of device `index` can read this device memory."""

    def is_capturing(self, stream: int) -> bool:
        """Whether a stream, possibly of the host application, is being captured."""

    def begin_capture(self, stream: int) -> None:
        """Start a capture: what this thread enqueues on `stream` is recorded instead of executed."""

    def end_capture(self, stream: int) -> int:
        """End the capture and return its graph, ready to be launched."""

    def graph_launch(self, graph: int, stream: int) -> None:
        """Execute a graph on `stream`."""

    def graph_destroy(self, graph: int) -> None:
        """Destroy a graph from `end_capture`."""


def no_driver(*, version: str, why: str) -> BackendUnavailable:
    """The error that `driver` raises.

    Args:
        version: newest CUDA that the driver supports; `0.0` if there is none.
        why: CUDA's message.
    """
    came = "there is no NVIDIA driver" if version == "0.0" else f"the NVIDIA driver is for CUDA {version}"
    return BackendUnavailable(
        f"{came} ({why})",
        expected="an NVIDIA driver, and a device that it can use",
        cure="install an NVIDIA driver: r580 or newer for a TensorRT of CUDA 13, r535 or newer for one of "
        "CUDA 12; or use the CPU: backend='onnxruntime'",
    )


def dotted(version: int) -> str:
    """CUDA's version number as a text: 13020 is `13.2`."""
    return f"{version // 1000}.{version % 1000 // 10}"
