"""A stand-in for `pycuda.driver`, over a `Gpu`.

`NAMES` are what PyCUDA's own sources export (src/wrapper/wrap_cudadrv.cpp, the same in 2022.1 and 2026.1);
PyCUDA itself cannot be installed where there is no CUDA toolkit.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np
from fake_gpu import Gpu

NAMES = {
    "driver": "init get_version get_driver_version Device Context Stream Event Error device_attribute "
    "event_flags host_alloc_flags mem_alloc pagelocked_empty memcpy_htod_async memcpy_dtoh_async "
    "memcpy_dtod_async memset_d8_async mem_get_address_range",
    "Device": "count name compute_capability total_memory get_attribute retain_primary_context",
    "Context": "push pop synchronize",
    "Stream": "handle synchronize wait_for_event",
    "Event": "record query synchronize",
    "DeviceAllocation": "free",
    "PagelockedHostAllocation": "free get_device_pointer",
    "device_attribute": "INTEGRATED CAN_MAP_HOST_MEMORY PAGEABLE_MEMORY_ACCESS",
}


def fake_pycuda(gpu: Gpu, *, attributes: dict[str, int] | None = None) -> tuple[ModuleType, ModuleType]:
    """Modules like `pycuda` and `pycuda.driver`."""
    driver, pycuda = ModuleType("pycuda.driver"), ModuleType("pycuda")
    pycuda.VERSION, pycuda.driver = (2026, 1), driver
    pycuda.__path__ = []

    class Error(Exception):
        pass

    def check(call: str) -> None:
        if call in gpu.fail:
            raise Error(f"{call} failed: as the test wanted")

    class Context:
        def __init__(self, index):
            self._index = index

        def push(self):
            gpu.stack().append(0xC0 + self._index)

        @staticmethod
        def pop():
            gpu.pop()

        @staticmethod
        def synchronize():
            gpu.check_quiet()
            for handle in list(gpu.streams):
                gpu.synchronize(handle)

    class Device:
        def __init__(self, index):
            self._index = index

        @staticmethod
        def count():
            return 1

        def name(self):
            return "Fake GPU"

        def compute_capability(self):
            return (8, 9)

        def total_memory(self):
            return 1 << 34

        def get_attribute(self, attribute):
            return {"CAN_MAP_HOST_MEMORY": 1, **(attributes or {})}.get(attribute, 0)

        def retain_primary_context(self):
            return Context(self._index)

    class Stream:
        def __init__(self, flags=0):
            assert flags == 1
            self.handle = gpu.stream_create()

        def __del__(self):
            gpu.stream_destroy(self.handle)

        def synchronize(self):
            check("Stream.synchronize")
            gpu.synchronize(self.handle)

        def wait_for_event(self, event):
            gpu.wait(self.handle, event._event)

    class Event:
        def __init__(self, flags=0):
            assert flags == 2
            self._event = gpu.mark_create()

        def __del__(self):
            del gpu.marks[self._event]

        def record(self, stream=None):
            gpu.mark(self._event, stream.handle if stream else 0)

        def synchronize(self):
            check("Event.synchronize")
            gpu.mark_wait(self._event)

        def query(self):
            check("Event.query")
            return gpu.mark_done(self._event)

    class DeviceAllocation:
        def __init__(self, nbytes):
            check("mem_alloc")
            self._address = gpu.allocate(nbytes, "device")

        def __int__(self):
            return self._address

        def free(self):
            gpu.release(self._address, "memory")

    class PagelockedHostAllocation:
        def __init__(self, nbytes):
            self._address = gpu.allocate(nbytes, "host")

        def free(self):
            gpu.release(self._address, "host memory")

        def get_device_pointer(self):
            return self._address

    def pagelocked_empty(shape, dtype, mem_flags=0):
        check("pagelocked_empty")
        allocation = PagelockedHostAllocation(shape)
        memory = (ctypes.c_uint8 * shape).from_address(allocation._address)
        array = np.frombuffer(memory, dtype)
        return SimpleNamespace(ctypes=array.ctypes, base=allocation)

    def memcpy_htod_async(target, source, stream):
        address = ctypes.addressof(source)
        gpu.copy(target, address, ctypes.sizeof(source), address, target, stream.handle)

    def memcpy_dtoh_async(target, source, stream):
        address = ctypes.addressof(target)
        gpu.copy(address, source, ctypes.sizeof(target), address, source, stream.handle)

    def mem_get_address_range(pointer):
        if (block := gpu.find(pointer)) is None or block.context != gpu.check_current():
            raise Error("cuMemGetAddressRange failed: not found")
        return block.address, block.nbytes

    vars(driver).update(
        init=lambda: check("init"),
        get_version=lambda: (12, 6, 0),
        get_driver_version=lambda: 12060,
        Device=Device,
        Context=Context,
        Stream=Stream,
        Event=Event,
        Error=Error,
        device_attribute=SimpleNamespace(**{name: name for name in NAMES["device_attribute"].split()}),
        event_flags=SimpleNamespace(DISABLE_TIMING=2),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
        mem_alloc=DeviceAllocation,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        memcpy_dtod_async=lambda to, source, size, stream: gpu.copy_within(to, source, size, stream.handle),
        memset_d8_async=lambda pointer, byte, size, stream: gpu.fill(pointer, byte, size, stream.handle),
        mem_get_address_range=mem_get_address_range,
    )
    return pycuda, driver
