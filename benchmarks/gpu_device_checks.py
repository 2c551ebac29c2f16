"""The checks of `gpu_cuda` for images that are on the GPU already: order, lifetime, torch, CuPy."""

from __future__ import annotations

import importlib
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.gpu_bench import Bench, NotHere, same
from runtime.backends.cuda_memory import Stream


def run_device_keeps_the_order_of_streams(bench: Bench) -> dict[str, Any]:
    """A slow stream writes the images: a run must wait for it, and what comes next on it for the run.

    `returned_us`: until run_device came back; where that is as long as the kernel, the host was held up.
    """
    images, right = bench.images(1, 3)
    returned = []
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        array = bench.on_device(images, stack, stream)
        backend = stack.enter_context(bench.backend())
        for turn in range(bench.effort.repeats):
            array.blacken()
            bench.cuda.synchronize(stream.handle)
            bench.kernels.wait(stream.handle, bench.effort.spin)
            array.write()
            started = time.perf_counter()
            # Turns about: the stream is named, or is the one that the array names.
            *outputs, wait = backend.run_device(array, stream.handle if turn % 2 else None)
            returned.append(1e6 * (time.perf_counter() - started))
            if not turn % 2:
                wait()
            same([bench.download(output, stream.handle) for output in outputs], right, f"turn {turn}")
            del outputs
    us = float(np.median(returned))
    return {"returned_us": us, "detail": f"run_device returned after {us:.0f} µs"}


def device_outputs_keep_their_memory(bench: Bench) -> dict[str, Any]:
    """Outputs of earlier runs are not written over, and outlive the backend."""
    with bench.current(), ExitStack() as stack:
        stream = stack.enter_context(Stream(bench.cuda))
        kept = []
        with bench.backend() as backend:
            for seed in range(4):
                images, right = bench.images(1 + seed % bench.effort.most, seed)
                array = bench.on_device(images, stack, stream)
                *outputs, wait = backend.run_device(array)
                kept.append((outputs, right))
            wait()
        for outputs, right in kept:
            same([bench.download(output, stream.handle) for output in outputs], right, "kept outputs")
        kept.clear()
        del outputs
    return {}


def torch_tensors_and_streams(bench: Bench) -> dict[str, Any]:
    """A tensor by DLPack, on torch's default stream and on one of its own, each slow before it is written."""
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise NotHere("this torch sees no GPU")
    images, right = bench.images(1, 5)
    ready = torch.from_numpy(images).cuda()
    with bench.backend() as backend:
        for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
            for _ in range(bench.effort.repeats):
                with torch.cuda.stream(stream):
                    tensor = torch.zeros_like(ready)
                    bench.kernels.wait(stream.cuda_stream, bench.effort.spin)
                    tensor.copy_(ready)
                    embedding, mask, _ = backend.run_device(tensor, stream)
                    # On the stream that was given, the outputs are in order without a wait.
                    found = [torch.as_tensor(each, device="cuda").cpu().numpy() for each in (embedding, mask)]
                same(found, right, f"torch, {stream}")
        embedding, mask, wait = backend.run_device(ready)
        wait()
        found = [torch.as_tensor(each, device="cuda").cpu().numpy() for each in (embedding, mask)]
        same(found, right, "torch, no stream given")
    return {"detail": f"torch {torch.__version__}"}


def cupy_arrays_and_streams(bench: Bench) -> dict[str, Any]:
    """The same with CuPy."""
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
                embedding, mask, _ = backend.run_device(array, stream)
                found = [cupy.asnumpy(cupy.asarray(each)) for each in (embedding, mask)]
            same(found, right, "cupy")
    return {"detail": f"cupy {cupy.__version__}"}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} is not here: {error}") from error
