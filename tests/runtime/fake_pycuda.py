"""A fake of `pycuda.driver`, on a `Gpu`.

`NAMES` are what PyCUDA's own sources export (src/wrapper/wrap_cudadrv.cpp, the same in 2022.1 and 2026.1);
PyCUDA itself cannot be installed where there is no CUDA toolkit.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.runtime.fake_gpu import Gpu

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


class Error(Exception):
    """`pycuda.driver.Error`."""


class OnGpu:
    """A class of the driver; `fake_pycuda` makes a subclass for one GPU, as PyCUDA has no argument for it."""

    gpu: Gpu
    attributes: dict[str, int]

    @classmethod
    def check(cls, call: str) -> None:
        if call in cls.gpu.fail:
            raise Error(f"{call} failed: as the test wanted")


class Context(OnGpu):
    def __init__(self, index):
        self._index = index

    def push(self):
        self.gpu.stack().append(0xC0 + self._index)

    @classmethod
    def pop(cls):
        cls.gpu.pop()

    @classmethod
    def synchronize(cls):
        cls.gpu.check_quiet()
        for handle in list(cls.gpu.streams):
            cls.gpu.synchronize(handle)


class Device(OnGpu):
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
        return {"CAN_MAP_HOST_MEMORY": 1, **self.attributes}.get(attribute, 0)

    def retain_primary_context(self):
        return self._context(self._index)


class Stream(OnGpu):
    def __init__(self, flags=0):
        assert flags == 1
        self.handle = self.gpu.stream_create()

    def __del__(self):
        self.gpu.stream_destroy(self.handle)

    def synchronize(self):
        self.check("Stream.synchronize")
        self.gpu.synchronize(self.handle)

    def wait_for_event(self, event):
        self.gpu.wait(self.handle, event._event)


class Event(OnGpu):
    def __init__(self, flags=0):
        assert flags == 2
        self._event = self.gpu.mark_create()

    def __del__(self):
        del self.gpu.marks[self._event]

    def record(self, stream=None):
        self.gpu.mark(self._event, stream.handle if stream else 0)

    def synchronize(self):
        self.check("Event.synchronize")
        self.gpu.mark_wait(self._event)

    def query(self):
        self.check("Event.query")
        return self.gpu.mark_done(self._event)


class DeviceAllocation(OnGpu):
    def __init__(self, nbytes):
        self.check("mem_alloc")
        self._address = self.gpu.allocate(nbytes, "device")

    def __int__(self):
        return self._address

    def free(self):
        self.gpu.release(self._address, "memory")


class PagelockedHostAllocation(OnGpu):
    def __init__(self, nbytes):
        self._address = self.gpu.allocate(nbytes, "host")

    def free(self):
        self.gpu.release(self._address, "host memory")

    def get_device_pointer(self):
        return self._address


class Calls(OnGpu):
    """The driver's functions."""

    def pagelocked_empty(self, shape, dtype, mem_flags=0):
        self.check("pagelocked_empty")
        allocation = self._allocation(shape)
        memory = (ctypes.c_uint8 * shape).from_address(allocation._address)
        array = np.frombuffer(memory, dtype)
        return SimpleNamespace(ctypes=array.ctypes, base=allocation)

    def memcpy_htod_async(self, target, source, stream):
        address = ctypes.addressof(source)
        self.gpu.copy(target, address, ctypes.sizeof(source), address, target, stream.handle)

    def memcpy_dtoh_async(self, target, source, stream):
        address = ctypes.addressof(target)
        self.gpu.copy(address, source, ctypes.sizeof(target), address, source, stream.handle)

    def memcpy_dtod_async(self, target, source, nbytes, stream):
        self.gpu.copy_within(target, source, nbytes, stream.handle)

    def memset_d8_async(self, pointer, byte, nbytes, stream):
        self.gpu.fill(pointer, byte, nbytes, stream.handle)

    def mem_get_address_range(self, pointer):
        block = self.gpu.find(pointer)
        if block is None or block.context != self.gpu.check_current():
            raise Error("cuMemGetAddressRange failed: not found")
        return block.address, block.nbytes

    def init(self):
        self.check("init")

    def get_version(self):
        return (12, 6, 0)

    def get_driver_version(self):
        return 12060


def fake_pycuda(gpu: Gpu, *, attributes: dict[str, int] | None = None) -> tuple[ModuleType, ModuleType]:
    """Modules like `pycuda` and `pycuda.driver`."""
    driver, pycuda = ModuleType("pycuda.driver"), ModuleType("pycuda")
    pycuda.VERSION, pycuda.driver, pycuda.__path__ = (2026, 1), driver, []

    def bound(kind: type, **more: object) -> type:
        return type(kind.__name__, (kind,), {"gpu": gpu, "attributes": attributes or {}, **more})

    driver.Context = bound(Context)
    driver.Device = bound(Device, _context=driver.Context)
    driver.Stream, driver.Event, driver.Error = bound(Stream), bound(Event), Error
    driver.mem_alloc = bound(DeviceAllocation)
    driver.device_attribute = SimpleNamespace(**{name: name for name in NAMES["device_attribute"].split()})
    driver.event_flags = SimpleNamespace(DISABLE_TIMING=2)
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    calls = bound(Calls, _allocation=bound(PagelockedHostAllocation))()
    for name in (name for name in vars(Calls) if not name.startswith("_")):
        setattr(driver, name, getattr(calls, name))
    return pycuda, driver
