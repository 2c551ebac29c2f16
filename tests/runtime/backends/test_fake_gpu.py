"""The fakes of CUDA and TensorRT: they have only real names, and enforce each of their rules."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.backends import cuda
from tests.runtime import fake_pycuda as fake_pycuda_module
from tests.runtime import fake_tensorrt as stand_in
from tests.runtime.backends.tensorrt.named_tensorrt import MODULE, owners
from tests.runtime.fake_cuda import CALLS, ENUMS, FakeDriver
from tests.runtime.fake_gpu import GLOBAL, RULES, BrokenRule, Gpu
from tests.runtime.fake_pycuda import NAMES, fake_pycuda
from tests.runtime.fake_tensorrt import TARGETS, fake_tensorrt

SHAPE = (1, 4, 6, 3)


class Bench:
    """An engine, a stream, memory for every tensor, and a way to break each rule."""

    def __init__(self) -> None:
        self.gpu = Gpu()
        self.cuda = FakeDriver(self.gpu)
        self.cuda.cuCtxPushCurrent(0xC0)
        self.log = SimpleNamespace(log=lambda severity, text: None)
        self.runtime = fake_tensorrt(self.gpu).Runtime(self.log)
        self.engine = self.runtime.deserialize_cuda_engine(b"")
        self.context = self.engine.create_execution_context()
        self.stream = self.cuda.cuStreamCreate(1)[1]
        self.memory = self.cuda.cuMemAlloc(1024)[1]
        self.mode = self.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def ready(self) -> None:
        self.context.set_input_shape("image", SHAPE)
        for name in ("image", "embedding", "mask"):
            self.context.set_tensor_address(name, self.memory)

    def run(self) -> None:
        assert self.context.execute_async_v3(self.stream)

    def begin(self) -> None:
        self.cuda.cuStreamBeginCapture(self.stream, self.mode)

    def close(self) -> None:
        for stream in self.gpu.streams.values():
            stream.queue.clear()
            stream.users.clear()
        self.gpu.recorded.clear()
        self.context.graph = 0
        self.context = self.engine = self.runtime = None  # in this order

    def recorded(self) -> int:
        self.ready()
        self.run()
        self.cuda.cuStreamSynchronize(self.stream)
        self.begin()
        self.run()
        return self.cuda.cuStreamEndCapture(self.stream)[1]

    def break_current(self) -> None:
        self.cuda.cuCtxPopCurrent()
        self.cuda.cuMemAlloc(8)

    def break_popped(self) -> None:
        self.cuda.cuCtxPopCurrent()
        self.cuda.cuCtxPopCurrent()

    def break_address(self) -> None:
        self.ready()
        self.cuda.cuMemFree(self.memory)
        self.run()

    def break_aligned(self) -> None:
        self.context.set_tensor_address("image", self.memory + 4)

    def break_warm(self) -> None:
        self.ready()
        self.run()  # without waiting for it
        self.begin()
        self.run()

    def break_own_stream(self) -> None:
        self.cuda.cuStreamBeginCapture(0, self.mode)

    def break_quiet(self) -> None:
        self.begin()
        self.cuda.cuStreamSynchronize(self.stream)

    def break_own_thread(self) -> None:
        self.begin()
        self.gpu.streams[self.stream].thread += 1  # as if another thread had begun
        self.cuda.cuMemsetD8Async(self.memory, 0, 8, self.stream)

    def break_isolated(self) -> None:
        event = self.cuda.cuEventCreate(2)[1]
        self.cuda.cuEventRecord(event, 0)
        self.begin()
        self.cuda.cuStreamWaitEvent(self.stream, event, 0)

    def break_thread_local(self) -> None:
        mode = self.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        self.cuda.cuStreamBeginCapture(self.stream, mode)

    def break_global(self) -> None:
        self.gpu.begin(self.stream, GLOBAL)
        self.gpu.streams[self.stream].thread += 1  # as if another thread had begun
        self.cuda.cuEventQuery(self.cuda.cuEventCreate(2)[1])

    def break_one_context(self) -> None:
        self.recorded()
        self.run()

    def break_pinned(self) -> None:
        pageable = np.zeros(8, np.uint8)
        self.cuda.cuMemcpyHtoDAsync(self.memory, pageable.ctypes.data, 8, self.stream)

    def break_release(self) -> None:
        self.engine._go()  # while its context lives

    def break_waited(self) -> None:
        self.ready()
        self.run()
        self.cuda.cuMemFree(self.memory)

    def break_rows(self) -> None:
        self.context = None
        self.engine = self.runtime.deserialize_cuda_engine(TARGETS)
        self.context = self.engine.create_execution_context()
        self.ready()
        self.context.set_input_shape("toward", (2, 3))
        self.context.set_tensor_address("toward", self.memory)
        self.run()

    def break_one_thread(self) -> None:
        self.ready()
        self.context._busy.acquire()  # as another thread does, inside
        self.run()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_enforced(rule):
    bench = Bench()
    with pytest.raises(BrokenRule, match=RULES[rule]):
        getattr(bench, f"break_{rule.replace(' ', '_')}")()
    assert bench.gpu.broken == [rule]
    bench.close()


def test_a_run_that_keeps_the_rules_breaks_none():
    bench = Bench()
    graph = bench.recorded()
    bench.cuda.cuGraphLaunch(graph, bench.stream)
    bench.cuda.cuStreamSynchronize(bench.stream)
    bench.cuda.cuGraphExecDestroy(graph)
    bench.close()
    bench.cuda.cuMemFree(bench.memory)
    bench.cuda.cuStreamDestroy(bench.stream)
    assert bench.gpu.broken == []
    assert bench.gpu.live() == 0


def public(kind: object) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


@pytest.mark.skipif(not cuda.installed("cuda.bindings"), reason="cuda-bindings is not installed")
def test_cuda_bindings_have_every_name():
    from cuda.bindings import driver

    assert [name for name in public(FakeDriver) if not hasattr(driver, name)] == []
    for name, (_, does) in CALLS.items():
        taken = [*inspect.signature(does).parameters][1:]
        assert taken == [*inspect.signature(getattr(driver, name)).parameters], name
    for enumeration, ours in ENUMS.items():
        for name, member in ours.__members__.items():
            assert int(member) == int(getattr(getattr(driver, enumeration), name)), name


def test_tensorrt_has_every_name():
    checked, rtx = set(), find_spec("tensorrt_rtx") and importlib.import_module("tensorrt_rtx")
    for kind in (kind for kind in vars(stand_in).values() if isinstance(kind, type)):
        for real in (base.__name__ for base in kind.__mro__ if base.__name__ in {*owners()} - {MODULE}):
            names = set(public(kind)) - stand_in.OWN
            assert names <= owners()[real].keys()
            assert not rtx or names <= set(dir(getattr(rtx, real)))
            checked.add(real)
    names = "ILogger Runtime ICudaEngine IExecutionContext IRuntimeConfig IRuntimeCache"
    assert checked == {*names.split()}
    modules = fake_tensorrt(Gpu()), fake_tensorrt(Gpu(), rtx=True)
    for module in modules:
        assert set(public(module)) <= owners()[MODULE].keys()
    assert not hasattr(modules[0], "IRuntimeConfig")


def test_pycuda_has_every_name():
    """According to its sources; they cannot be compiled here."""
    driver = fake_pycuda(Gpu())[1]
    assert set(public(driver)) == set(NAMES["driver"].split())
    for kind in NAMES.keys() - {"driver", "device_attribute"}:
        assert set(public(getattr(fake_pycuda_module, kind))) <= set(NAMES[kind].split())
    if "pycuda" in sys.modules:
        import pycuda.driver

        assert [name for name in NAMES["driver"].split() if not hasattr(pycuda.driver, name)] == []
