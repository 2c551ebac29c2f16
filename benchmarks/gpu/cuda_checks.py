"""The checks of `gpu.cuda`: each takes a `Bench` and returns figures or raises.  Cheap ones come first."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.common.interleave import interleave
from benchmarks.gpu.bench import Bench, NotHere, Wrong, same
from benchmarks.gpu.device_checks import (
    an_event_is_done_when_its_work_is,
    cupy_arrays_and_streams,
    device_outputs_keep_their_memory,
    memory_of_outputs_is_used_again,
    run_device_keeps_the_order_of_streams,
    torch_tensors_and_streams,
    what_is_not_finite_is_refused,
)
from benchmarks.gpu.kernels import DIMENSION
from runtime.backends.cuda.memory import DeviceBuffer, Graph, PinnedArray, Stream

GOAL_US = 50
"""Microseconds that our runtime may add to the bare launch of a graph."""
_MEGABYTE = 1 << 20
_GROWTH = 8 * _MEGABYTE
"""Bytes by which memory may grow in the second half of the calls."""
_SECONDS = 15
"""Seconds after which calls are not repeated further."""


def runs_are_exact_and_replayed(bench: Bench) -> dict[str, Any]:
    """Every batch size gives exact outputs; one image and a full batch are replayed by a CUDA graph."""
    with bench.backend() as backend:
        for seed in range(bench.effort.repeats):
            for n in range(1, bench.effort.most + 1):
                bench.run_exactly(backend, n, seed)
        if backend.degraded:
            raise Wrong(f"no graph where one can be had: {backend.degraded}")
        return {"detail": backend.why}


def a_stale_replay_is_refused(bench: Bench) -> dict[str, Any]:
    """A replay that computes nothing must be noticed; the graph is not used, and runs stay exact."""
    return _without_graph(bench, "stale", "replay")


def a_broken_capture_is_survived(bench: Bench) -> dict[str, Any]:
    """The engine waits during its capture, so CUDA invalidates it; plain runs go on."""
    return _without_graph(bench, "breaks", "recorded")


def an_engine_of_rtx_pads_and_is_replayed(bench: Bench) -> dict[str, Any]:
    """With TensorRT-RTX every batch above one image is run as the largest batch, by its graph."""
    with bench.backend(rtx=True) as backend:
        for n in range(1, bench.effort.most + 1):
            bench.run_exactly(backend, n, n)
        if backend.degraded:
            raise Wrong(f"no graph where one can be had: {backend.degraded}")
        return {}


def what_cannot_be_recorded_is_left_to_rtx(bench: Bench) -> dict[str, Any]:
    """An engine that the library calls not capturable is not recorded from outside, and stays exact."""
    return _without_graph(bench, "refuses", "by itself instead", rtx=True)


def what_the_runtime_adds(bench: Bench) -> dict[str, Any]:
    """Microseconds that `run` and `run_device` add to a bare graph, from idle to idle, timed in turns.

    `run` is compared with a graph that copies in and out, `run_device` with a graph without copies.  A third
    graph, with copies within the device, shows how much of what `run_device` adds are those copies.
    """
    images, _ = bench.images(1)
    with bench.current(), ExitStack() as stack:
        bare, kernel, copied = _bare_graphs(bench, images, stack)
        backend = stack.enter_context(bench.backend())
        backend.warm_up(on_device=True)
        array = bench.on_device(images, stack)

        def run_device() -> None:
            backend.run_device(array)[0].path.synchronize()

        calls: dict[str, Callable[[], Any]] = {"bare graph": bare, "run": lambda: backend.run(images)}
        calls |= {"bare graph, no copies": kernel, "run_device": run_device}
        calls |= {"bare graph, copies on the device": copied}
        times = _in_turns(calls, bench.effort.timed)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    added = {
        "run_adds_us": medians["run"] - medians["bare graph"],
        "run_device_adds_us": medians["run_device"] - medians["bare graph, no copies"],
    }
    spread = {f"{name}_p99_us": float(np.percentile(values, 99)) for name, values in times.items()}
    detail = f"run +{added['run_adds_us']:.1f} µs, run_device +{added['run_device_adds_us']:.1f} µs"
    us = {f"{name}_us": value for name, value in medians.items()}
    return {**us, **spread, **added, "detail": detail, "passed": max(added.values()) <= GOAL_US}


def two_submitted_runs_overlap(bench: Bench) -> dict[str, Any]:
    """Two runs of a slow kernel on two lanes take less than 1.5 times one run; both are exact."""
    with bench.backend(spin=bench.effort.spin) as backend:
        (first, right), (second, other) = bench.images(1, 1), bench.images(1, 2)

        def two() -> None:
            results = backend.submit(first), backend.submit(second)
            same(results[0](), right, "the first of two")
            same(results[1](), other, "the second of two")

        backend.warm_up()
        times = _in_turns({"one": lambda: backend.submit(first)(), "two": two}, bench.effort.repeats)
    one, both = float(times["one"].min()), float(times["two"].min())
    if one < 500:
        raise NotHere(f"a run takes {one:.0f} µs: too little to see an overlap")
    return {"one_us": one, "two_us": both, "passed": both < 1.5 * one, "detail": f"{both / one:.2f} of one"}


def threads_do_not_disturb_each_other(bench: Bench) -> dict[str, Any]:
    """Each thread opens, runs and closes its own backends, while others capture, run and allocate."""

    def work(number: int) -> None:
        for _ in range(3):
            with bench.backend() as backend:
                for seed in range(bench.effort.repeats):
                    bench.run_exactly(backend, 1 + (number + seed) % bench.effort.most, seed)
                if backend.degraded:
                    raise Wrong(f"a thread lost its graph: {backend.degraded}")

    threads = bench.effort.threads
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))  # raises what a thread raised
    return {"detail": f"{threads} threads"}


def one_backend_moves_between_threads(bench: Bench) -> dict[str, Any]:
    """A backend that is opened and closed here runs in other threads, one at a time."""
    with bench.backend() as backend:
        for seed in range(3):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(bench.run_exactly, backend, 1, seed).result()
    return {}


def opening_and_closing_leaks_nothing(bench: Bench) -> dict[str, Any]:
    """Growth of memory while many backends are opened and closed."""

    def once(seed: int) -> None:
        with bench.backend() as backend:
            bench.run_exactly(backend, 1 + seed % bench.effort.most, seed)

    return _growth(bench, once, bench.effort.opens)


def calls_leak_nothing(bench: Bench) -> dict[str, Any]:
    """Growth of memory during many runs."""
    images, _ = bench.images(1)
    with bench.backend() as backend:
        return _growth(bench, lambda _: backend.run(images), bench.effort.calls)


def device_calls_leak_nothing(bench: Bench) -> dict[str, Any]:
    """Growth of memory during many calls of `run_device`."""
    with bench.current(), ExitStack() as stack:
        array = bench.on_device(bench.images(1)[0], stack)
        backend = stack.enter_context(bench.backend())
        backend.warm_up(on_device=True)
        return _growth(
            bench, lambda _: backend.run_device(array)[0].path.synchronize(), bench.effort.device_calls
        )


CHECKS = (
    runs_are_exact_and_replayed,
    a_stale_replay_is_refused,
    a_broken_capture_is_survived,
    an_engine_of_rtx_pads_and_is_replayed,
    what_cannot_be_recorded_is_left_to_rtx,
    an_event_is_done_when_its_work_is,
    what_the_runtime_adds,
    two_submitted_runs_overlap,
    run_device_keeps_the_order_of_streams,
    device_outputs_keep_their_memory,
    memory_of_outputs_is_used_again,
    what_is_not_finite_is_refused,
    one_backend_moves_between_threads,
    threads_do_not_disturb_each_other,
    calls_leak_nothing,
    device_calls_leak_nothing,
    torch_tensors_and_streams,
    cupy_arrays_and_streams,
    opening_and_closing_leaks_nothing,
)


def _without_graph(bench: Bench, fault: str, reason: str, *, rtx: bool = False) -> dict[str, Any]:
    with bench.backend(fault=fault, rtx=rtx) as backend:
        if reason not in backend.degraded:
            raise Wrong(f"the graph was not refused: degraded is {backend.degraded!r}")
        for seed in range(bench.effort.repeats):
            bench.run_exactly(backend, 1, seed)
        return {"detail": backend.degraded}


def _bare_graphs(bench: Bench, images: np.ndarray, stack: ExitStack) -> list[Callable[[], None]]:
    """Three calls that launch a graph and wait for it: the kernel with copies in and out, the kernel alone,
    and the kernel between copies within the device."""
    cuda, (n, height, width, _) = bench.cuda, images.shape
    shapes = ((images.shape, np.uint8), ((n, DIMENSION), np.float32), ((n, height, width), np.float32))
    hosts = [stack.enter_context(PinnedArray(cuda, shape, dtype)) for shape, dtype in shapes]
    buffers, others = ([stack.enter_context(DeviceBuffer(cuda, h.nbytes)) for h in hosts] for _ in "12")
    sizes = [host.nbytes for host in hosts]
    image, *outputs = (buffer.handle for buffer in buffers)
    embedding, mask = outputs
    stream = stack.enter_context(Stream(cuda))
    handle = stream.handle

    def kernel() -> None:
        bench.kernels.infer(handle, image, embedding, mask, images.shape, 0)

    def everything() -> None:
        cuda.copy_in(image, hosts[0].handle, sizes[0], handle)
        kernel()
        for host, pointer, nbytes in zip(hosts[1:], outputs, sizes[1:], strict=True):
            cuda.copy_out(host.handle, pointer, nbytes, handle)

    def waited(launch: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            launch()
            cuda.synchronize(handle)

        return call

    everything()
    cuda.synchronize(handle)
    whole, alone = (stack.enter_context(Graph(cuda, stream, work)) for work in (everything, kernel))

    def between() -> None:
        cuda.copy(image, others[0].handle, sizes[0], handle)
        alone.launch()
        for other, pointer, nbytes in zip(others[1:], outputs, sizes[1:], strict=True):
            cuda.copy(other.handle, pointer, nbytes, handle)

    return [waited(launch) for launch in (whole.launch, alone.launch, between)]


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Microseconds (rounds,) of every call."""
    times = interleave(calls, rounds=rounds, warm_up=max(1, rounds // 10))
    return {name: 1e3 * milliseconds for name, milliseconds in times.items()}


def _growth(bench: Bench, call: Callable[[int], Any], times: int) -> dict[str, Any]:
    """Growth of memory over many calls.

    The second half of the calls decides: a leak grows in both halves, caches of the driver and of malloc only
    in the first.
    """
    for seed in range(max(2, times // 50)):
        call(seed)
    used, done = [_collected(bench)], 0
    for _ in range(2):
        until, end = time.monotonic() + _SECONDS / 2, done + times // 2
        while done < end and time.monotonic() < until:
            call(done)
            done += 1
        used.append(_collected(bench))
    before, half, after = used
    growth = {name: after[name] - before[name] for name in before if name in after}
    late = {name: after[name] - half[name] for name in growth if name in half}
    said = ", ".join(
        f"{name} {value / _MEGABYTE:+.2f} MiB, {late[name] / _MEGABYTE:+.2f} of it in the second half"
        for name, value in growth.items()
        if name in late
    )
    return {
        "passed": max(late.values()) < _GROWTH,
        "times": done,
        "growth_bytes": growth,
        "second_half_bytes": late,
        "detail": f"{done} times: {said}",
    }


def _collected(bench: Bench) -> dict[str, int]:
    gc.collect()
    return bench.used()
