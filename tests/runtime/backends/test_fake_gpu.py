"""The fakes of CUDA and TensorRT: they have only real names, and enforce each of their rules."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    """An engine, a stream, memory for every tensor: what is needed to break a rule."""

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

    def warm(self) -> None:
        self.ready()
        self.run()
        self.cuda.cuStreamSynchronize(self.stream)

    def begin(self) -> None:
        self.cuda.cuStreamBeginCapture(self.stream, self.mode)

    def close(self) -> None:
        for stream in self.gpu.streams.values():
            stream.queue.clear()
            stream.users.clear()
        self.gpu.recorded.clear()
        self.context.graph = 0
        self.context = None
        self.engine = None
        self.runtime = None

    def recorded(self) -> int:
        self.warm()
        self.begin()
        self.run()
        return self.cuda.cuStreamEndCapture(self.stream)[1]


def current(bench: Bench) -> None:
    bench.cuda.cuCtxPopCurrent()
    bench.cuda.cuMemAlloc(8)


def popped(bench: Bench) -> None:
    bench.cuda.cuCtxPopCurrent()
    bench.cuda.cuCtxPopCurrent()


def address(bench: Bench) -> None:
    bench.ready()
    bench.cuda.cuMemFree(bench.memory)
    bench.run()


def aligned(bench: Bench) -> None:
    bench.context.set_tensor_address("image", bench.memory + 4)


def warm(bench: Bench) -> None:
    bench.ready()
    bench.run()  # without waiting for it
    bench.begin()
    bench.run()


def own_stream(bench: Bench) -> None:
    bench.cuda.cuStreamBeginCapture(0, bench.mode)


def quiet(bench: Bench) -> None:
    bench.begin()
    bench.cuda.cuStreamSynchronize(bench.stream)


def own_thread(bench: Bench) -> None:
    bench.begin()
    bench.gpu.streams[bench.stream].thread += 1  # as if another thread had begun
    bench.cuda.cuMemsetD8Async(bench.memory, 0, 8, bench.stream)


def isolated(bench: Bench) -> None:
    event = bench.cuda.cuEventCreate(2)[1]
    bench.cuda.cuEventRecord(event, 0)
    bench.begin()
    bench.cuda.cuStreamWaitEvent(bench.stream, event, 0)


def thread_local(bench: Bench) -> None:
    mode = bench.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    bench.cuda.cuStreamBeginCapture(bench.stream, mode)


def global_(bench: Bench) -> None:
    bench.gpu.begin(bench.stream, GLOBAL)
    bench.gpu.streams[bench.stream].thread += 1  # as if another thread had begun
    bench.cuda.cuEventQuery(bench.cuda.cuEventCreate(2)[1])


def one_context(bench: Bench) -> None:
    bench.recorded()
    bench.run()


def pinned(bench: Bench) -> None:
    pageable = np.zeros(8, np.uint8)
    bench.cuda.cuMemcpyHtoDAsync(bench.memory, pageable.ctypes.data, 8, bench.stream)


def release(bench: Bench) -> None:
    bench.engine._go()  # while its context lives


def waited(bench: Bench) -> None:
    bench.ready()
    bench.run()
    bench.cuda.cuMemFree(bench.memory)


def rows(bench: Bench) -> None:
    bench.context = None
    bench.engine = bench.runtime.deserialize_cuda_engine(TARGETS)
    bench.context = bench.engine.create_execution_context()
    bench.ready()
    bench.context.set_input_shape("toward", (2, 3))
    bench.context.set_tensor_address("toward", bench.memory)
    bench.run()


def one_thread(bench: Bench) -> None:
    bench.ready()
    bench.context._busy.acquire()  # as another thread does, inside
    bench.run()


def rule_of(breach: Callable[[Bench], None]) -> str:
    return breach.__name__.replace("_", " ").strip()


@pytest.mark.parametrize(
    "breach",
    [
        *(current, popped, address, aligned, warm, own_stream, quiet, own_thread, isolated),
        *(thread_local, global_, one_context, pinned, release, waited, rows, one_thread),
    ],
)
def test_every_rule_is_enforced(breach):
    bench = Bench()
    name = rule_of(breach)
    with pytest.raises(BrokenRule, match=RULES[name]):
        breach(bench)
    assert bench.gpu.broken == [name]
    bench.close()


def test_no_rule_is_untested():
    (mark,) = test_every_rule_is_enforced.pytestmark  # type: ignore[attr-defined]
    assert set(map(rule_of, mark.args[1])) == set(RULES)


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

    assert [name for name in (*public(FakeDriver), *CALLS) if not hasattr(driver, name)] == []
    for enumeration, ours in ENUMS.items():
        for name, member in ours.__members__.items():
            assert int(member) == int(getattr(getattr(driver, enumeration), name)), name


def test_tensorrt_has_every_name():
    checked = set()
    for kind in (kind for kind in vars(stand_in).values() if isinstance(kind, type)):
        for real in (base.__name__ for base in kind.__mro__ if base.__name__ in {*owners()} - {MODULE}):
            assert set(public(kind)) - stand_in.OWN <= owners()[real].keys()
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
    for kind in ("Device", "Context", "Stream", "Event"):
        assert set(public(getattr(fake_pycuda_module, kind))) <= set(NAMES[kind].split())
    if "pycuda" in sys.modules:
        import pycuda.driver

        assert [name for name in NAMES["driver"].split() if not hasattr(pycuda.driver, name)] == []
