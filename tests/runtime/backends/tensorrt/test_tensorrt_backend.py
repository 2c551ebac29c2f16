"""Runs of an engine, with fakes of CUDA and TensorRT that enforce their rules (`fake_gpu.RULES`)."""

from __future__ import annotations

import gc
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from runtime import Embedder, Explainer
from runtime.errors import BackendError, InputError
from tests.runtime.engine_outputs import check_outputs, random_images
from tests.runtime.fake_gpu import Gpu
from tests.runtime.fake_tensorrt import IExecutionContext, Severity, fake_tensorrt

CALLS = (
    *("deserialize_cuda_engine", "create_execution_context", "set_input_shape", "set_tensor_address"),
    "execute_async_v3",
)
CUDA_CALLS = ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuMemcpyHtoDAsync")


@pytest.fixture
def backend(open_toy):
    return open_toy()


def test_the_caller_owns_both_outputs(backend):
    assert (backend.name, backend.precision, backend.max_batch) == ("tensorrt 10.3.0.30", "fp16", 4)
    assert backend.why == (
        "toy.engine fits Fake GPU (8.9); cuda-bindings for CUDA 13.5, 2 stream(s); "
        "its outputs were not checked: the package has no reference.npz"
    )
    assert backend.degraded == ""
    kept = []
    for n in (4, 1, 3, 1, 2, 4):
        images = random_images(n, len(kept))
        outputs = backend.run(images)
        check_outputs(images, outputs)
        assert [output.dtype for output in outputs] == [np.float32, np.float32]
        kept.append((outputs, [output.copy() for output in outputs]))
    backend.close()
    for outputs, then in kept:
        for output, value in zip(outputs, then, strict=True):
            np.testing.assert_array_equal(output, value)


def test_smallest_and_largest_batch_replay_a_graph(backend, gpu):
    for n, graphs, launches in ((1, 1, 1), (1, 1, 1), (4, 2, 2), (3, 2, 0), (4, 2, 1)):
        before = gpu.launches
        check_outputs(images := random_images(n, launches), backend.run(images))
        assert (len(gpu.graphs), gpu.launches - before) == (graphs, launches), n


def test_after_warm_up_runs_allocate_nothing(toy, backend, gpu):
    with Explainer(toy, backend=backend) as explainer:
        explainer.warm_up()
        assert explainer.backend._lanes.keys() == {"least", "second", "between", "most"}
        before = set(gpu.blocks), set(gpu.graphs)
        explainer.warm_up()
        list(explainer.stream([random_images(1)[0]] * 4))
        for n in (1, 2, 3, 4):
            check_outputs(random_images(n), explainer.backend.run(random_images(n)))
        assert (set(gpu.blocks), set(gpu.graphs)) == before
    with pytest.raises(BackendError, match="this explainer is closed"):
        explainer.warm_up()


@pytest.mark.parametrize(
    ("batch", "lanes"), [((1, 1, 1), {"least"}), ((1, 1, 2), {"least", "most"}), ((2, 2, 2), {"least"})]
)
def test_warm_up_makes_only_lanes_in_use(toy, add, gpu, monkeypatch, batch, lanes):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu, profile=(batch[0], batch[2])))
    add(toy, "toy", batch=batch)
    add(toy, "alone", batch=batch, outputs=("embedding",))
    with Explainer(toy, backend="tensorrt") as explainer:
        explainer.warm_up()
        assert explainer.backend._lanes.keys() == {*lanes, "second"}
    with Embedder(toy, backend="tensorrt") as embedder:
        embedder.warm_up()
        assert embedder.backend._lanes.keys() == lanes
    with pytest.raises(BackendError, match="this embedder is closed"):
        embedder.warm_up()


def test_a_small_context_has_less_memory(backend, gpu):
    backend.warm_up()
    memory = {name: lane._context.memory for name, lane in backend._lanes.items()}
    sizes = {name: own and own[1] for name, own in memory.items()}
    assert sizes == {"least": 1000, "second": 1000, "between": None, "most": None}
    assert memory["least"][0] != memory["second"][0], "two runs may overlap"
    assert {gpu.find(memory[name][0]).nbytes for name in ("least", "second")} == {1000}


@pytest.mark.parametrize("name", ["update_device_memory_size_for_shapes", "set_device_memory"])
def test_without_a_memory_query_the_library_allocates(open_toy, monkeypatch, name):
    monkeypatch.setattr(sys.modules["tensorrt"], "IExecutionContext", type("Older", (), {name: None}))
    backend = open_toy()
    assert backend._lanes["least"]._context.memory is None
    check_outputs(random_images(1), backend.run(random_images(1)))


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        ("update_device_memory_size_for_shapes", lambda context: 0),
        ("set_device_memory", lambda context, *_: context._log.log(Severity.ERROR, "invalid device memory")),
    ],
)
def test_refused_memory_is_replaced_by_the_librarys(open_toy, monkeypatch, call, instead):
    monkeypatch.setattr(IExecutionContext, call, instead)
    backend = open_toy()
    assert backend._lanes["least"]._context.memory is None
    assert any("memory of the largest batch for 1 image(s)" in line for line in backend.load_log)
    check_outputs(random_images(1), backend.run(random_images(1)))


def test_fewer_images_than_the_profiles_minimum(open_toy, gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu, profile=(2, 4)))
    backend = open_toy(batch=(2, 2, 4))
    for n in (1, 2):
        embedding, mask = outputs = backend.run(random_images(n))
        assert (len(embedding), len(mask)) == (n, n)
        check_outputs(random_images(n), outputs)


def test_poison_reveals_a_run_without_outputs(backend, gpu):
    backend.poison()
    assert np.isfinite(backend.run(random_images(1))[1]).all()
    backend.poison()
    for ops in gpu.graphs.values():
        del ops[1]  # the computation, between the copies
    embedding, mask = backend.run(random_images(1))
    assert np.isnan(embedding).all()
    assert np.isnan(mask).all()


def test_wrong_images_are_refused(backend):
    for images in (random_images(5), random_images(1)[:, :3], random_images(1).astype(np.float32)):
        with pytest.raises(InputError):
            backend.run(images)


def test_release_is_in_order_and_happens_once(backend, gpu):
    gpu.events.clear()
    backend.close()
    backend.close()
    memory = [*["memory"] * 3, *["host memory"] * 3, "memory"]  # the last is of the context
    assert gpu.events == ["graph", "IExecutionContext", *memory, "stream", "ICudaEngine", "Runtime"]
    assert not gpu.live()
    for use in (lambda: backend.run(random_images(1)), backend.poison, lambda: backend.run_device(None)):
        with pytest.raises(BackendError, match="after close"):
            use()


# Without a CUDA graph.


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("recorded execute_async_v3", "it could not be recorded: .*execute_async_v3 failed"),
        *(
            (call, f"it could not be recorded: {call} failed: CUDA_ERROR_900")
            for call in ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch")
        ),
        ("empty graph", "its replay did not give what a plain run gives"),
    ],
)
def test_runs_without_a_graph_say_why(toy, open_toy, gpu, fault, reason):
    gpu.fail[fault] = 900
    gpu.empty_graphs = fault == "empty graph"
    with Explainer(toy, backend=open_toy()) as explainer:
        backend = explainer.backend
        assert not gpu.graphs
        assert re.match(f"no CUDA graph for batches of 1: {reason}", backend.degraded, re.DOTALL)
        for n in (1, 4):
            check_outputs(images := random_images(n), backend.run(images))
        assert "; no CUDA graph for batches of 4" in backend.degraded
        assert explainer(random_images(1)[0]).timing["degraded"] == backend.degraded


@pytest.mark.parametrize("toward", [None, np.float32([[0.1, 0.2, 0.3]])], ids=["computation", "target"])
def test_a_replay_with_stale_outputs_is_refused(open_toy, monkeypatch, toward):
    """A graph that lacks a step: the device still holds the outputs, or the target, of the plain run."""
    end = Gpu.end

    def end_without_a_step(self: Gpu, handle: int) -> int:
        graph = end(self, handle)
        del self.graphs[graph][1]
        return graph

    monkeypatch.setattr(Gpu, "end", end_without_a_step)
    backend, images = open_toy(**{} if toward is None else {"inputs": ("image", "toward")}), random_images(1)
    assert "its replay did not give what a plain run gives" in backend.degraded
    outputs = backend.run(images) if toward is None else backend.run_toward(images, toward)
    check_outputs(images, outputs, toward)


# Faults.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *((call, f"ERROR: {call} did not like it") for call in CALLS),
        *((call, f"{call} failed: CUDA_ERROR_2") for call in CUDA_CALLS),
        ("get_tensor_dtype", "'mask': 'HALF'"),
    ],
)
def test_a_failed_opening_says_why_and_leaks_nothing(open_toy, gpu, call, words):
    gpu.fail[call] = 2
    with pytest.raises(BackendError, match=words):
        open_toy()


def test_a_failed_lane_leaves_the_others_usable(backend, gpu):
    before = gpu.live()
    gpu.fail["cuMemHostAlloc"] = 2
    with pytest.raises(BackendError, match="cuMemHostAlloc failed"):
        backend.run(random_images(4))
    gc.collect()
    assert gpu.live() == before
    check_outputs(random_images(1), backend.run(random_images(1)))
    gpu.fail.clear()
    check_outputs(random_images(4), backend.run(random_images(4)))


def test_a_device_error_is_raised_and_everything_released(backend, gpu):
    gpu.fail["cuStreamSynchronize"] = 700
    with pytest.raises(BackendError, match="cuStreamSynchronize failed: CUDA_ERROR_700"):
        backend.run(random_images(1))
    for stream in gpu.streams.values():
        stream.queue.clear()  # an error ends what is enqueued
    with pytest.raises(BackendError, match="CUDA_ERROR_700"):
        backend.close()


# Overlapping runs and threads.


def test_submitted_runs_overlap_and_none_is_lost(backend, gpu):
    images = [random_images(1, seed) for seed in range(7)]
    waits = [backend.submit(image) for image in images[:2]]
    assert sum(bool(stream.queue) for stream in gpu.streams.values()) == 2, "both are enqueued"
    waits += [backend.submit(image) for image in images[2:5]]
    check_outputs(random_images(1, 9), backend.run(random_images(1, 9)))
    waits += [backend.submit(image) for image in images[5:]]
    for image, wait in zip(images, waits, strict=True):
        check_outputs(image, wait())
        check_outputs(image, wait())
    check_outputs(random_images(4), backend.submit(random_images(4))())
    last = backend.submit(images[0])
    backend.close()
    with pytest.raises(BackendError, match="closed before its run was finished"):
        last()


def test_explainer_stream_overlaps_two_runs(toy, backend):
    frames = [random_images(1, seed)[0] for seed in range(30)]
    with Explainer(toy, backend=backend) as explainer:
        streamed = []
        for i, explanation in enumerate(explainer.stream(frames)):
            streamed.append(explanation)
            if i % 7 == 0:
                check_outputs(random_images(2), explainer.backend.run(random_images(2)))
        assert explainer.backend._lanes.keys() == {"least", "second", "between"}
    assert len(streamed) == len(frames)
    for frame, explanation in zip(frames, streamed, strict=True):
        np.testing.assert_allclose(explanation.embedding, frame.mean((0, 1)), rtol=1e-6)


def test_threads_take_turns(toy, backend, gpu):
    def work(seed: int) -> None:
        for i in range(10):
            image = random_images(1, 100 * seed + i)[0]
            np.testing.assert_allclose(explainer(image).embedding, image.mean((0, 1)), rtol=1e-6)
        assert not gpu.stack(), "the thread's context is what it was before"

    with Explainer(toy, backend=backend) as explainer, ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))  # raises what a thread raised
