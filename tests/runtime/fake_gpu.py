"""A fake GPU with memory, streams and graphs, which enforces the rules of CUDA and TensorRT.

Its device memory is host memory.  Work enqueued on a stream is done when something waits for the stream, and
not before.  `fake_cuda`, `fake_pycuda` and `fake_tensorrt` are the libraries on it.
"""

from __future__ import annotations

import collections
import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

RULES = {
    # CUDA driver API: CUDA_ERROR_INVALID_CONTEXT; TensorRT binds to the device that is current
    # (ultralytics #26223: an engine on another device replays nothing).
    "current": "a context is current in the thread that calls",
    # PyCUDA, context_stack::~context_stack in cuda.hpp ends the process otherwise.
    "popped": "what a thread pushes it pops",
    # TensorRT reference of IExecutionContext::setTensorAddress.
    "address": "every tensor has the address of memory that is there, before an enqueue",
    # The same: an alignment of at least 256 bytes.
    "aligned": "addresses are multiples of 256",
    # TensorRT developer guide on CUDA graphs; TensorRT #2603.
    "warm": "a context runs once with these shapes and addresses, and is waited for, before it is recorded",
    # cuStreamBeginCapture: not CU_STREAM_LEGACY.
    "own stream": "what is recorded is on a stream of its own",
    # cuThreadExchangeStreamCaptureMode; TensorRT #3011, #4325.
    "quiet": "nothing is allocated, freed or waited for while a stream is recorded",
    # cuStreamBeginCapture: what any thread enqueues on a stream while it is recorded is recorded too.
    "own thread": "a stream is touched by no other thread while it is recorded",
    # CUDA_ERROR_STREAM_CAPTURE_ISOLATION.
    "isolated": "a stream that is recorded waits for nothing but what is recorded with it",
    # CU_STREAM_CAPTURE_MODE_GLOBAL makes unsafe calls of other threads fail; pytorch/TensorRT #3349.
    "thread local": "recording is in thread-local mode",
    # cuThreadExchangeStreamCaptureMode, which each thread begins without.
    "global": "in global mode no thread allocates, frees or asks while another one records in that mode",
    # TensorRT developer guide on CUDA graphs: a graph has shapes, addresses and the context's state in it.
    "one context": "a context that was recorded does nothing else while its graph lives",
    # cuMemcpyHtoDAsync: pageable memory is staged, so that it is no asynchronous copy; not in a graph at all.
    "pinned": "copies are from and to page-locked memory",
    # TensorRT developer guide, Python: an object lives longer than what was made of it.
    "release": "context before engine, engine before runtime; graph before context",
    # cuMemFree, cuStreamDestroy: what is enqueued may still be using it.
    "waited": "what is given back is not in use by work that is still enqueued",
    # TensorRT refuses dimensions of one name that differ: the batch of every input is `N` in the graph.
    "rows": "every input has as many rows as the others",
    # TensorRT developer guide, threading: one context, one thread at a time.
    "one thread": "one thread at a time uses a context",
}
LEGACY = 1
GLOBAL = "CU_STREAM_CAPTURE_MODE_GLOBAL"


class BrokenRule(AssertionError):
    """A rule of `RULES` was broken."""


@dataclass
class Block:
    """Memory."""

    memory: ctypes.Array
    address: int
    nbytes: int
    kind: str  # device, host
    context: int


@dataclass
class Op:
    """Enqueued work: its function, and the blocks that it uses."""

    do: Callable[[], None]
    touches: tuple[int, ...] = ()


@dataclass
class Stream:
    """Enqueued work; captured work, and the thread that captures it."""

    queue: list[Op] = field(default_factory=list)
    recording: list[Op] | None = None
    thread: int = 0
    mode: str = ""
    users: list[object] = field(default_factory=list)  # contexts enqueued since the stream was waited for


class Gpu:
    """One device of compute capability 8.9.

    `fail` maps names of calls to error codes; `empty_graphs` makes every captured graph empty.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream()}
        self.graphs: dict[int, list[Op]] = {}
        self.marks: dict[int, dict] = {}  # of CUDA's events: on which stream, whether done
        self.recorded: dict[int, list[object]] = {}  # contexts, by graph
        self.objects: collections.Counter[str] = collections.Counter()  # TensorRT's, alive
        self.broken: list[str] = []
        self.events: list[str] = []  # what was released, in order
        self.fail: dict[str, int] = {}
        self.empty_graphs = False
        self.launches = 0
        self.compilations = 0  # of TensorRT-RTX
        self._threads = threading.local()
        self._number = 1000

    def rule(self, name: str, kept: bool) -> None:
        if not kept:
            self.broken.append(name)
            raise BrokenRule(RULES[name])

    def number(self) -> int:
        self._number += 1
        return self._number

    def live(self) -> int:
        """Number of open objects."""
        open_ = (self.blocks, self.streams, self.graphs, self.marks)
        return sum(map(len, open_)) - 1 + self.objects.total()

    # Contexts of a thread.

    def stack(self) -> list[int]:
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        return self._threads.stack

    def check_current(self) -> int:
        self.rule("current", bool(self.stack()))
        return self.stack()[-1]

    def pop(self) -> int:
        self.rule("popped", bool(self.stack()))
        return self.stack().pop()

    # Stream capture mode of a thread.

    def mode(self) -> str:
        return getattr(self._threads, "mode", GLOBAL)

    def exchange_mode(self, mode: str) -> str:
        before, self._threads.mode = self.mode(), mode
        return before

    # Memory.

    def check_quiet(self) -> None:
        self.check_current()
        here = threading.get_ident()
        recording = [s for s in self.streams.values() if s.recording is not None]
        self.rule("quiet", not any(s.thread == here for s in recording))
        if self.mode() == GLOBAL:
            self.rule("global", not any(s.mode == GLOBAL for s in recording))

    def allocate(self, nbytes: int, kind: str) -> int:
        self.check_quiet()
        memory = ctypes.create_string_buffer(nbytes + 256)
        address = -(-ctypes.addressof(memory) // 256) * 256
        self.blocks[address] = Block(memory, address, nbytes, kind, self.check_current())
        return address

    def release(self, address: int, event: str) -> None:
        self.check_quiet()
        enqueued = [op for stream in self.streams.values() for op in stream.queue]
        self.rule("waited", not any(address in op.touches for op in enqueued))
        del self.blocks[address]
        self.events.append(event)

    def find(self, pointer: int) -> Block | None:
        blocks = self.blocks.values()
        return next((b for b in blocks if b.address <= pointer < b.address + b.nbytes), None)

    # Streams.

    def stream(self, handle: int) -> Stream:
        self.check_current()
        stream = self.streams[int(handle) or LEGACY]
        self.rule("own thread", stream.recording is None or stream.thread == threading.get_ident())
        return stream

    def stream_create(self) -> int:
        self.check_quiet()
        handle = self.number()
        self.streams[handle] = Stream()
        return handle

    def stream_destroy(self, handle: int) -> None:
        self.check_quiet()
        self.rule("waited", not self.streams[handle].queue)
        del self.streams[handle]
        self.events.append("stream")

    def enqueue(self, handle: int, do: Callable[[], None], *touches: int) -> None:
        stream = self.stream(handle)
        op = Op(do, touches)
        (stream.queue if stream.recording is None else stream.recording).append(op)

    def synchronize(self, handle: int) -> None:
        self.check_quiet()
        stream = self.stream(handle)
        self.drain(stream)
        for context in stream.users:
            context.settled = True
        stream.users.clear()

    def drain(self, stream: Stream, until: Callable[[], bool] = lambda: False) -> None:
        while stream.queue and not until():
            stream.queue.pop(0).do()

    def mark_create(self) -> int:
        self.check_current()
        self.marks[event := self.number()] = {"done": True, "stream": self.stream(LEGACY)}
        return event

    def mark(self, event: int, handle: int) -> None:
        stream = self.stream(handle)
        self.marks[event] = mark = {"done": False, "stream": stream, "within": stream.recording}
        self.enqueue(handle, lambda: mark.update(done=True))

    def mark_done(self, event: int) -> bool:
        self.check_quiet()
        return self.marks[event]["done"]

    def mark_wait(self, event: int) -> None:
        self.check_quiet()
        mark = self.marks[event]
        self.drain(mark["stream"], lambda: mark["done"])

    def wait(self, handle: int, event: int) -> None:
        mark, stream = self.marks[event], self.stream(handle)
        if (within := mark.get("within")) is not None:  # the stream is recorded too, from now on
            stream.recording, stream.thread = within, threading.get_ident()
            return
        self.rule("isolated", stream.recording is None)
        self.enqueue(handle, lambda: self.drain(mark["stream"], lambda: mark["done"]))

    def copy(self, target: int, source: int, nbytes: int, host: int, device: int, stream: int) -> None:
        block, pinned = self.find(device), self.find(host)
        assert block is not None, "a copy to or from what is no device memory"
        assert device + nbytes <= block.address + block.nbytes, "a copy past the end"
        self.rule("pinned", pinned is not None and pinned.kind == "host")
        self.enqueue(stream, lambda: ctypes.memmove(target, source, nbytes), block.address, pinned.address)

    def copy_within(self, target: int, source: int, nbytes: int, stream: int) -> None:
        blocks = [self.find(pointer) for pointer in (target, source)]
        for block, pointer in zip(blocks, (target, source), strict=True):
            assert getattr(block, "kind", "") == "device", "a copy to or from what is no device memory"
            assert pointer + nbytes <= block.address + block.nbytes, "a copy past the end"
        self.enqueue(stream, lambda: ctypes.memmove(target, source, nbytes), *(b.address for b in blocks))

    def fill(self, pointer: int, byte: int, nbytes: int, stream: int) -> None:
        self.enqueue(stream, lambda: ctypes.memset(pointer, byte, nbytes), pointer)

    # Graphs.

    def is_recording(self, handle: int) -> bool:
        self.check_current()
        return self.streams[int(handle) or LEGACY].recording is not None

    def begin(self, handle: int, mode: str) -> None:
        self.rule("own stream", int(handle) not in (0, LEGACY))
        stream = self.stream(handle)
        stream.recording, stream.thread, stream.mode = [], threading.get_ident(), mode

    def end(self, handle: int) -> int:
        stream = self.stream(handle)
        ops = stream.recording
        for other in self.streams.values():
            if other.recording is ops:
                other.recording = None
        graph = self.number()
        self.graphs[graph] = [] if self.empty_graphs else ops or []
        self.recorded[graph] = [user for user in stream.users if getattr(user, "graph", 0) == -1]
        for context in self.recorded[graph]:
            context.graph = graph
            stream.users.remove(context)
        return graph

    def launch(self, graph: int, handle: int) -> None:
        self.launches += 1
        for op in self.graphs[graph]:
            self.enqueue(handle, op.do, *op.touches)

    def graph_destroy(self, graph: int) -> None:
        del self.graphs[graph]
        for context in self.recorded.pop(graph, []):
            context.graph = 0
        self.events.append("graph")
