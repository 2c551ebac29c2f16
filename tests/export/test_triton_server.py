"""The model repository, served by Triton's own server; `triton_stand_in.py` runs the graph.

NEMU_TRITON is a folder with the wheel nvidia-pytriton, unpacked: .ci/triton fetches it and runs this file.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient import grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from export.triton import BACKENDS, write_repository
from runtime import Explainer
from runtime.package.folder import Package
from tests.export.test_triton import add

WHEEL = os.environ.get("NEMU_TRITON", "")
STAND_IN = Path(__file__).with_name("triton_stand_in.py")
SECONDS = 120
"""A server that is neither ready nor gone by then hangs."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WHEEL, reason="NEMU_TRITON names no folder with Triton's server: .ci/triton"),
]


def backends(folder: Path) -> Path:
    """A folder of backends: the wheel's `python`, and the stand-in under the names that we write."""
    server = Path(WHEEL) / "pytriton/tritonserver"
    stub = server / f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}"
    for part in (server / "backends/python", stub):
        shutil.copytree(part, folder / "python", dirs_exist_ok=True)  # the server refuses links
    for name in BACKENDS:
        (folder / name).mkdir()
        shutil.copy(STAND_IN, folder / name / "model.py")
    return folder


def environment() -> dict[str, str]:
    """Its own libraries, no GPU, and this interpreter: Python inside is the first python3 on the path."""
    libraries = (Path(WHEEL) / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def serve(models: Path, folder: Path) -> Iterator[tuple[grpc.InferenceServerClient | None, Path]]:
    """The server with a strict configuration: a client once it is ready, None if it gave up; and its log."""
    port, log = free_port(), folder / "log"
    command = [
        Path(WHEEL) / "pytriton/tritonserver/bin/tritonserver",
        f"--model-repository={models}",
        f"--backend-directory={backends(folder / 'backends')}",
        "--disable-auto-complete-config",
        *("--allow-http=false", "--allow-metrics=false", "--grpc-address=127.0.0.1", f"--grpc-port={port}"),
    ]
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment(), stdout=out, stderr=out)
    client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        until = time.monotonic() + SECONDS
        while not (gone := server.poll() is not None) and not ready(client):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield None if gone else client, log
    finally:
        client.close()
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def ready(client: grpc.InferenceServerClient) -> bool:
    try:
        return client.is_server_ready()
    except InferenceServerException:
        return False


@pytest.fixture(scope="module")
def models(package, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_repository(Package.open(package), folder, backend="onnxruntime")
    return folder


@pytest.fixture(scope="module")
def client(models, tmp_path_factory):
    with serve(models, tmp_path_factory.mktemp("server")) as (client, log):
        assert client is not None, log.read_text()
        yield client


def ask(images: np.ndarray) -> list[grpc.InferInput]:
    types = {"uint8": "UINT8", "float32": "FP32"}
    image = grpc.InferInput("image", list(images.shape), types[images.dtype.name])
    image.set_data_from_numpy(images)
    return [image]


def together(client: grpc.InferenceServerClient, images: np.ndarray) -> list[grpc.InferResult]:
    """Each image as a request of its own, all at once; the answers in order."""
    with ThreadPoolExecutor(len(images)) as threads:
        return list(threads.map(lambda image: client.infer("tiny", ask(image[None])), images))


def statistics(client) -> dict[int, int]:
    """Size of a batch → how often one was executed."""
    (model,) = client.get_inference_statistics("tiny").model_stats
    return {batch.batch_size: batch.compute_infer.count for batch in model.batch_stats}


def test_server_keeps_the_config_as_written(client, models, package):
    assert client.is_model_ready("tiny", "1")
    ours = text_format.Parse((models / "tiny/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    theirs = client.get_model_config("tiny").config
    for field in ("max_batch_size", "input", "output", "backend"):
        assert getattr(theirs, field) == getattr(ours, field), field
    assert theirs.default_model_filename == "model.onnx"
    delay = theirs.dynamic_batching.max_queue_delay_microseconds
    assert delay == ours.dynamic_batching.max_queue_delay_microseconds > 0
    manifest = Package.open(package).manifest
    metadata = client.get_model_metadata("tiny")
    assert [(o.name, o.datatype, list(o.shape)) for o in metadata.outputs] == [
        ("embedding", "FP32", [-1, manifest.encoder.dimension]),
        ("mask", "FP32", [-1, 64, 64]),
    ]
    (image,) = metadata.inputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "UINT8", [-1, 64, 64, 3])


def test_several_images_give_what_the_explainer_gives(client, package):
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    answer = client.infer("tiny", ask(images))
    with Explainer(package, backend="onnxruntime") as explainer:
        embedding, mask = explainer.backend.run(images)
    np.testing.assert_allclose(answer.as_numpy("embedding"), embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("mask"), mask, rtol=1e-4, atol=1e-5)
    assert not np.allclose(embedding[0], embedding[1], rtol=1e-2)


def test_single_images_share_batches_in_order(client, package):
    before = statistics(client)
    assert before[1] >= 1  # the warm-up
    images = np.random.default_rng(1).integers(0, 256, (64, 64, 64, 3), np.uint8)
    answers = together(client, images)
    with Explainer(package, backend="onnxruntime") as explainer:
        expected = np.concatenate([explainer.backend.run(image[None])[0] for image in images])
    found = np.concatenate([answer.as_numpy("embedding") for answer in answers])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    ran = {size: count - before.get(size, 0) for size, count in statistics(client).items()}
    assert sum(size * count for size, count in ran.items()) == 64
    assert any(count for size, count in ran.items() if size > 1), ran


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (np.zeros((1, 64, 65, 3), np.uint8), "unexpected shape for input 'image'"),
        (np.zeros((1, 3, 64, 64), np.uint8), "unexpected shape for input 'image'"),
        (np.zeros((1, 64, 64, 3), np.float32), "data-type"),
        (np.zeros((33, 64, 64, 3), np.uint8), "must be <= 32"),
    ],
)
def test_server_refuses_wrong_inputs(client, images, why):
    with pytest.raises(InferenceServerException, match=why):
        client.infer("tiny", ask(images))


@pytest.mark.parametrize(
    ("written", "damaged", "why"),
    [
        ("TYPE_FP32 dims: [ 64, 64 ]", "TYPE_FP32 dims: [ 64 ]", "the graph has"),
        ("dims: [ 64, 64, 3 ] zero_data", "dims: [ 64, 3 ] zero_data", "got [1,64,3]"),
    ],
)
def test_a_config_that_is_wrong_is_not_served(models, tmp_path, written, damaged, why):
    wrong = Path(shutil.copytree(models, tmp_path / "models"))
    config = wrong / "tiny/config.pbtxt"
    text = config.read_text()
    assert written in text
    config.write_text(text.replace(written, damaged))
    with serve(wrong, tmp_path) as (client, log):
        assert client is None
        assert why in log.read_text()


def test_repository_of_plans_lacks_only_a_gpu_here(copy, tmp_path):
    add(copy, "8.7")
    add(copy, "8.9")
    write_repository(copy, tmp_path / "models", backend="tensorrt")
    with serve(tmp_path / "models", tmp_path) as (client, log):
        assert client is None
        assert "has kind KIND_GPU but no GPUs are available" in log.read_text()
