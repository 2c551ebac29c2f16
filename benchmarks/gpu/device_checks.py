"""The checks of `gpu.cuda` for images on the GPU: order of streams, lifetime of outputs, torch, CuPy."""

from __future__ import annotations

import gc
import importlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.gpu.bench import Bench, NotHere, Wrong, same
from runtime.backends.cuda.memory import Stream
from runtime.device_explanation import DeviceExplanation
from runtime.errors import BackendError

_WAITS = {"synchronize", "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost"}
"""Functions of our CUDA layer or of the driver that a run must not call after the warm-up."""


def run_device_keeps_the_order_of_streams(bench: Bench) -> dict[str, Any]:
    """A slow stream writes the images: the run must wait for it, and later work on that stream for the run.

    `returned_us` is the time until run_device returned; if it is as long as the kernel, the host waited.
    """
    images, right = bench.images(1, 3)
    returned = []
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        array = bench.on_device(images, stack, stream)
        backend = stack.enter_context(bench.backend())
        backend.warm_up(on_device=True)
        for turn in range(bench.effort.repeats):
            array.blacken()
            bench.cuda.synchronize(stream.handle)
            bench.kernels.wait(stream.handle, bench.effort.spin)
            array.write()
            started = time.perf_counter()
            # In alternation: the stream is passed, or taken from the array.
            outputs = backend.run_device(array, stream.handle if turn % 2 else None)
            returned.append(1e6 * (time.perf_counter() - started))
            if not turn % 2:
                outputs[0].path.synchronize()
            same([bench.download(output, stream.handle) for output in outputs], right, f"turn {turn}")
            del outputs
    us = float(np.median(returned))
    return {"returned_us": us, "detail": f"run_device returned after {us:.0f} µs"}


def device_outputs_keep_their_memory(bench: Bench) -> dict[str, Any]:
    """Outputs of earlier runs are not overwritten, and stay valid after the backend is closed."""
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        kept = []
        with bench.backend() as backend:
            for seed in range(4):
                images, right = bench.images(1 + seed % bench.effort.most, seed)
                array = bench.on_device(images, stack, stream)
                outputs = backend.run_device(array)
                kept.append((outputs, right))
        for outputs, right in kept:
            same([bench.download(output, stream.handle) for output in outputs], right, "kept outputs")
        kept.clear()
        del outputs
    return {}


def memory_of_outputs_is_used_again(bench: Bench) -> dict[str, Any]:
    """Dropping an output makes no CUDA call; the next run uses its memory and allocates nothing."""
    images, right = bench.images(1, 7)
    libraries = bench.cuda, importlib.import_module("cuda.bindings.driver")
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        array = bench.on_device(images, stack, stream)
        backend = stack.enter_context(bench.backend())
        outputs = backend.run_device(array)
        outputs[0].path.synchronize()
        places = {output.pointer for output in outputs}
        gc.collect()  # garbage of earlier checks
        with _calls(*libraries) as made:
            del outputs
            gc.collect()
        if made:
            raise Wrong(f"dropping the outputs called {made}")
        with _calls(*libraries) as made:
            outputs = backend.run_device(array)
        outputs[0].path.synchronize()
        if waits := _WAITS & set(made):
            raise Wrong(f"a run after the warm-up called {sorted(waits)}")
        if {output.pointer for output in outputs} != places:
            raise Wrong("the freed memory was not used again")
        same([bench.download(output, stream.handle) for output in outputs], right, "memory used again")
        del outputs
    return {"detail": "a run calls " + " ".join(name for name in made if name[2].isupper())}


def what_is_not_finite_is_refused(bench: Bench) -> dict[str, Any]:
    """`DeviceExplanation.check` accepts finite outputs and raises for one that holds NaN."""
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        array = bench.on_device(bench.images(1)[0], stack, stream)
        backend = stack.enter_context(bench.backend())
        embedding, mask = backend.run_device(array)
        explanation = DeviceExplanation(embedding=embedding, mask=mask, embedding_id="stand-in")
        explanation.check()
        bench.cuda.fill(mask.pointer, 0xFF, 4 * math.prod(mask.shape), stream.handle)
        bench.cuda.synchronize(stream.handle)
        try:
            explanation.check()
        except BackendError as error:
            return {"detail": error.came}
        finally:
            del embedding, mask, explanation
    raise Wrong("a mask of NaN was accepted")


def an_event_is_done_when_its_work_is(bench: Bench) -> dict[str, Any]:
    """`Cuda.event_done` is true before the record, false behind a slow kernel, true after a wait."""
    cuda = bench.cuda
    with bench.current(), Stream(cuda) as stream:
        event = cuda.event_create()
        try:
            said = [cuda.event_done(event)]
            bench.kernels.wait(stream.handle, bench.effort.spin)
            cuda.event_record(event, stream.handle)
            said.append(cuda.event_done(event))
            cuda.synchronize(stream.handle)
            said.append(cuda.event_done(event))
        finally:
            cuda.event_destroy(event)
    if said != [True, False, True]:
        raise Wrong(f"before the record, behind a slow kernel, after a wait: {said}")
    return {}


def torch_tensors_and_streams(bench: Bench) -> dict[str, Any]:
    """Tensors go in and out by DLPack: written late on one stream, read on another during the run."""
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise NotHere("this torch sees no GPU")
    images, right = bench.images(1, 5)
    ready = torch.from_numpy(images).cuda()
    torch.cuda.synchronize()
    own, other = torch.cuda.Stream(), torch.cuda.Stream()
    with bench.backend(spin=bench.effort.spin) as backend:
        for writer, reader in ((torch.cuda.default_stream(), other), (own, own), (own, other)):
            for turn in range(bench.effort.repeats):
                with torch.cuda.stream(writer):
                    tensor = torch.zeros_like(ready)
                    bench.kernels.wait(writer.cuda_stream, bench.effort.spin)
                    tensor.copy_(ready)
                    outputs = backend.run_device(tensor, writer if turn % 2 else None)
                with torch.cuda.stream(reader):  # no explicit wait: DLPack orders the reader after the run
                    found = [torch.from_dlpack(output).cpu().numpy() for output in outputs]
                same(found, right, f"torch, written on {writer}, read on {reader}")
                del outputs
    return {"detail": f"torch {torch.__version__}"}


def cupy_arrays_and_streams(bench: Bench) -> dict[str, Any]:
    """CuPy arrays, written late on a stream of CuPy and read back on it."""
    cupy = _module("cupy")
    images, right = bench.images(1, 6)
    ready = cupy.asarray(images)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with bench.backend() as backend:
        for _ in range(bench.effort.repeats):
            with stream:
                array = cupy.zeros_like(ready)
                bench.kernels.wait(stream.ptr, bench.effort.spin)
                array[...] = ready
                found = [cupy.asnumpy(cupy.asarray(each)) for each in backend.run_device(array, stream)]
            same(found, right, "cupy")
    return {"detail": f"cupy {cupy.__version__}"}


@contextmanager
def _calls(*targets: Any) -> Iterator[list[str]]:
    """Names of the functions of these objects that are called inside the `with`."""
    made: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def both(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            return function(*arguments, **named)

        return both

    with ExitStack() as stack:
        for target in targets:
            for name in (name for name in dir(target) if not name.startswith("_")):
                value = getattr(target, name)
                if callable(value) and not isinstance(value, type):
                    stack.enter_context(mock.patch.object(target, name, noted(name, value)))
        yield made


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} is not here: {error}") from error
