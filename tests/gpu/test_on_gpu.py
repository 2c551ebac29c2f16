"""What only a GPU can show: engines run, in threads, on two streams, from the memory of torch, for long.

python -m pytest -m gpu
NEMU_GPU_PACKAGE=x.nemu     a package with an engine for this machine; else a tiny one is made, and built
NEMU_SOAK_SECONDS=20        how long the soak takes
NEMU_SOAK_JSON=soak.json    where its figures go; none of them is asserted but the growth of memory
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.common.nvml import NoNvml, Nvml
from benchmarks.gpu.kernels import device_memory
from runtime import Explainer, Package
from runtime.backends import cuda
from runtime.backends.choice import toward_backend
from runtime.backends.tensorrt import selection
from runtime.backends.tensorrt.library import FLAVOURS, library
from runtime.errors import BackendUnavailable, EngineMismatch, InputError
from runtime.verify import verify, verify_toward
from tests.toward_graph import add_targets

pytestmark = pytest.mark.gpu
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def on_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package with an engine that fits this machine."""
    try:
        gpu = cuda.device(0)
    except BackendUnavailable as error:
        pytest.skip(error.came)
    if path := os.environ.get("NEMU_GPU_PACKAGE"):
        package = Package.open(path)
    else:
        made = request.getfixturevalue("package")
        package = add_targets(Path(shutil.copytree(made, tmp_path_factory.mktemp("gpu") / "tiny.nemu")))
        build(package)
    try:
        selection.open_backend(package).close()
    except (BackendUnavailable, EngineMismatch) as error:
        pytest.skip(f"no engine runs on {gpu.name} ({gpu.compute_capability}): {error.came}")
    return package


def build(package: Package) -> None:
    """An engine of every flavour whose library is here, and one for targets."""
    from export.build_engine import main

    for flavour in FLAVOURS:
        try:
            library(flavour)
        except BackendUnavailable:
            continue
        arguments = ["--package", str(package.path), "--target", flavour, "--quiet"]
        for form in ([], ["--toward"]):
            assert main([*arguments, "--batch", "1:1:8", *form]) == 0


@pytest.fixture
def explainer(on_gpu: Package) -> Iterator[Explainer]:
    with Explainer(on_gpu, backend="tensorrt") as explainer:
        yield explainer


def pictures(package: Package, n: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, of the graph's size: uint8 (n, height, width, 3)."""
    record = package.manifest.input
    coarse = np.random.default_rng((seed, n)).integers(0, 256, (n, 8, 8, 3), np.uint8)
    rows, columns = np.arange(record.height) * 8 // record.height, np.arange(record.width) * 8 // record.width
    return np.ascontiguousarray(coarse[:, rows][:, :, columns])


def same(one: Any, other: Any) -> None:
    """Equal as far as two runs of the same kernels are."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-3 * max(float(np.abs(b).max()), 1e-6))


def both(explanation: Any) -> tuple[np.ndarray, np.ndarray]:
    return explanation.embedding, explanation.graph_mask


def test_outputs_agree_with_the_package_reference(on_gpu: Package, explainer: Explainer) -> None:
    parity = verify(on_gpu, explainer.backend)
    assert parity.to_json()


def test_targets_change_the_mask_only(on_gpu: Package, explainer: Explainer) -> None:
    """For every number of images, over poisoned outputs; the same images again with other targets."""
    plain: Any = explainer.backend
    try:
        opened = toward_backend(on_gpu, plain)
    except (InputError, EngineMismatch) as error:
        pytest.skip(error.came)
    with closing(cast(selection.TensorRTBackend, opened)) as asks:
        assert verify_toward(on_gpu, asks).to_json()
        for n in range(1, min(asks.max_batch, plain.max_batch) + 1):
            images = pictures(on_gpu, n)
            embedding, mask = plain.run(images)
            for toward in (np.zeros_like(embedding), np.roll(embedding, 1, axis=0)):
                asks.poison()
                z, asked = asks.run_toward(images, toward)
                np.testing.assert_allclose(z, embedding, rtol=0, atol=5e-2 * float(np.abs(embedding).max()))
                if not toward.any():
                    assert np.abs(asked - mask).mean() < 2e-2
                for i in (0, n - 1):
                    _, alone = asks.run_toward(images[i : i + 1], toward[i : i + 1])
                    assert np.abs(alone[0] - asked[i]).mean() < 2e-2


def test_graph_replay_agrees_with_plain_runs(
    on_gpu: Package, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer.warm_up()  # records every graph, while that is allowed
    if explainer.backend.degraded:
        pytest.skip(explainer.backend.degraded)
    monkeypatch.setattr(cuda.implementation(), "no_graphs", "switched off by this test")
    with Explainer(on_gpu, backend="tensorrt") as plain:
        assert "switched off" in plain.backend.degraded
        for n in {1, explainer.backend.max_batch}:
            for seed in range(20):
                images = pictures(on_gpu, n, seed)
                explainer.backend.poison()
                same(explainer.backend.run(images), plain.backend.run(images))


def test_different_images_give_different_outputs(on_gpu: Package, explainer: Explainer) -> None:
    """The control: replays that ignore their input would pass for equal."""
    one, other = (explainer.backend.run(pictures(on_gpu, 1, seed))[0] for seed in (1, 2))
    assert np.abs(one - other).max() > 1e-2 * np.abs(one).max()


def test_every_batch_size(on_gpu: Package, explainer: Explainer) -> None:
    images = pictures(on_gpu, explainer.backend.max_batch)
    alone = [explainer.backend.run(image[None]) for image in images]
    for n in range(1, len(images) + 1):
        embedding, mask = explainer.backend.run(images[:n])
        for i in range(n):  # other kernels than for one image may be chosen for more
            scale = float(np.abs(alone[i][0]).max())
            np.testing.assert_allclose(embedding[i], alone[i][0][0], rtol=0, atol=5e-2 * scale)
            assert np.abs(mask[i] - alone[i][1][0]).mean() < 2e-2


def test_threads_with_shared_and_own_explainers(on_gpu: Package, explainer: Explainer) -> None:
    images = pictures(on_gpu, 8)
    expected = [both(explainer(image)) for image in images]
    wrong: list[BaseException] = []

    def work(mine: Explainer) -> None:
        try:
            for _ in range(25):
                for image, outputs in zip(images, expected, strict=True):
                    same(both(mine(image)), outputs)
        except BaseException as error:  # noqa: BLE001
            wrong.append(error)

    with Explainer(on_gpu, backend="tensorrt") as own:
        threads = [threading.Thread(target=work, args=(each,)) for each in (explainer, explainer, own)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_streaming_agrees_with_single_calls(on_gpu: Package, explainer: Explainer) -> None:
    images = pictures(on_gpu, 16)
    expected = [both(explainer(image)) for image in images]
    streamed = list(explainer.stream(images[i % 16] for i in range(160)))
    assert len(streamed) == 160
    for i, explanation in enumerate(streamed):
        same(both(explanation), expected[i % 16])


def test_torch_tensors_are_read_without_a_copy(on_gpu: Package, explainer: Explainer) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    images = pictures(on_gpu, 1)
    expected = explainer.backend.run(images)
    tensor = torch.from_numpy(images).cuda()
    explanation = explainer.run_device(tensor)
    explanation.synchronize()
    explanation.check()
    embedding, mask = torch.from_dlpack(explanation.embedding), torch.from_dlpack(explanation.mask)
    assert embedding.data_ptr() == explanation.embedding.pointer, "no copy on the way out either"
    del explanation
    gc.collect()
    explainer.run_device(tensor).synchronize()  # would take their memory, were it free
    same((embedding.cpu().numpy(), mask.cpu().numpy()), expected)
    before = 0
    for i in range(200):
        if i == 100:
            before = used()["device"]
        torch.from_dlpack(explainer.run_device(tensor).embedding).sum()
    assert used()["device"] - before < MEGABYTE, "memory is used again"
    for wrong in (tensor.float(), tensor[:, :, ::2], tensor[:, :-1], tensor.cpu()):
        with pytest.raises(InputError):
            explainer.run_device(wrong)


def test_torch_stream_order_is_kept(on_gpu: Package, explainer: Explainer) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    images = pictures(on_gpu, 1)
    expected = explainer.backend.run(images)
    ready = torch.from_numpy(images).cuda()
    busy = torch.randn(2048, 2048, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    for i in range(10):
        with torch.cuda.stream(stream):
            tensor = torch.zeros_like(ready)
            for _ in range(20):  # keeps the stream busy before it writes the images
                busy @ busy
            tensor.copy_(ready)
            explanation = explainer.run_device(tensor, stream=stream if i % 2 else None)
            embedding = torch.from_dlpack(explanation.embedding).cpu().numpy()
        np.testing.assert_allclose(
            embedding, expected[0], rtol=0, atol=5e-3 * float(np.abs(expected[0]).max())
        )


def test_frames_after_warm_up_take_no_memory(on_gpu: Package, explainer: Explainer) -> None:
    explainer.warm_up()
    most = explainer.backend.max_batch
    before = used()["device"]
    for n in (1, max(1, most - 1), most):
        explainer.backend.run(pictures(on_gpu, n))
    assert len(list(explainer.stream(pictures(on_gpu, 4)))) == 4
    assert used()["device"] - before < MEGABYTE


def test_memory_does_not_grow(
    on_gpu: Package, explainer: Explainer, record_property: Callable[[str, object], None]
) -> None:
    images = pictures(on_gpu, 4)
    times: list[float] = []

    def frames(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for image in images:
                started = time.perf_counter()
                explainer.backend.run(image[None])
                times.append(1e3 * (time.perf_counter() - started))
            explainer.backend.run(images)

    frames(3)
    times.clear()
    gc.collect()
    before = used()
    frames(float(os.environ.get("NEMU_SOAK_SECONDS", "20")))
    gc.collect()
    after = used()
    growth = {name: after[name] - before[name] for name in before}
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    facts: dict[str, Any] = {"backend": explainer.backend.name, "degraded": explainer.backend.degraded}
    facts |= {"runs": len(times), "p50_ms": p50, "p99_ms": p99}
    facts |= {f"{name}_growth_bytes": nbytes for name, nbytes in growth.items()}
    for name, value in facts.items():
        record_property(name, value)
    if path := os.environ.get("NEMU_SOAK_JSON"):
        Path(path).write_text(json.dumps(facts, indent=2) + "\n")
    assert max(growth.values()) < 16 * MEGABYTE, growth


def test_memory_comes_back(on_gpu: Package) -> None:
    def once() -> None:
        with Explainer(on_gpu, backend="tensorrt") as explainer:
            explainer.backend.run(pictures(on_gpu, explainer.backend.max_batch))

    for _ in range(2):
        once()
    gc.collect()
    before = used()
    for _ in range(5):
        once()
    gc.collect()
    after = used()
    # TensorRT-RTX keeps up to 20 MB after its contexts are gone; it does so once.
    assert all(after[name] - before[name] < 48 * MEGABYTE for name in before), (before, after)


def used() -> dict[str, int]:
    """Bytes that this process holds on the host, and on the device if NVML says; else those of all there."""
    try:
        device = Nvml().process_bytes()
    except NoNvml:  # a Jetson has none
        with cuda.implementation().current(0):
            free, total = device_memory()
        device = total - free
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"device": device, "host": pages * os.sysconf("SC_PAGE_SIZE")}
