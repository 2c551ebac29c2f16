"""Embeddings without masks: choice of engine or graph, and the same numbers as with masks."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from runtime import Embedder, Explainer
from runtime.__main__ import main
from runtime.backends.choice import choose, choose_embedding, embedding_only_backend
from runtime.backends.tensorrt import selection
from runtime.errors import BackendError, EngineMismatch, InputError, ParityError
from runtime.package.folder import Package
from runtime.package.manifest import OUTPUTS, EngineRecord
from runtime.verify import verify_embedding
from tests.runtime.engine_outputs import random_images

EMBEDDING_ONLY = OUTPUTS[:1]


@pytest.fixture
def indexing(make_package, tmp_path) -> Package:
    """The tiny package, with a graph for the CPU that gives no mask."""
    return Package.open(make_package(tmp_path / "indexing.nemu", embedding_only=True))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(19)]  # of more than two batches


def test_embeddings_equal_those_of_the_explainer(indexing, images):
    with Embedder(indexing) as embedder, Explainer(indexing) as explainer:
        assert embedder.backend.outputs == EMBEDDING_ONLY
        assert "computes the mask" not in embedder.backend.why
        assert embedder.embedding_id == explainer.embedding_id
        expected = np.stack([e.embedding for e in explainer(images)])
        found = embedder(images)
        assert (found.shape, found.dtype) == ((19, 3), np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert len(np.unique(found[:, 0])) == 19
        same = np.stack([image[:20] for image in images])
        np.testing.assert_allclose(embedder(same), embedder(list(same)), rtol=1e-6)
    with pytest.raises(BackendError, match="closed"):
        embedder(images)


def test_without_an_embedding_graph_the_mask_is_computed(tiny):
    with Embedder(tiny) as embedder:
        assert embedder.backend.outputs == OUTPUTS
        assert "it computes the mask too" in embedder.backend.why
        image = np.full((24, 32, 3), 51, np.uint8)
        np.testing.assert_allclose(embedder([image]), [[0.2, 0.2, 0.2]], rtol=1e-6)


def test_one_unloaded_pil_image_may_come_twice(indexing, tmp_path):
    """Pillow loads an image once, and two threads must not both begin."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with Embedder(indexing) as embedder:
        for _ in range(20):
            with Image.open(tmp_path / "a.png") as image:
                assert len(embedder([image] * 6)) == 6


def test_channel_order(indexing):
    image = np.zeros((24, 32, 3), np.uint8)
    image[..., 0] = 255
    with Embedder(indexing, channel_order="bgr") as embedder:
        np.testing.assert_allclose(embedder([image]), [[0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no images"),
        ("photo.jpg", "images: str"),
        (np.zeros((24, 32, 3), np.uint8), "images: ndarray"),
        ([np.zeros((24, 32, 3), np.uint8)] * 9 + ["absent.jpg"], r"images\[9\]: .*absent\.jpg"),
    ],
)
def test_what_cannot_be_embedded_is_refused(indexing, images, words):
    with Embedder(indexing) as embedder, pytest.raises(InputError, match=words):
        embedder(images)


def test_warm_up_on_the_cpu_is_a_run(indexing, monkeypatch):
    with Embedder(indexing) as embedder:
        seen, embed = [], embedder.backend.embed
        monkeypatch.setattr(embedder.backend, "embed", lambda images: seen.append(images) or embed(images))
        embedder.warm_up()
        assert [images.shape for images in seen] == [(1, 24, 32, 3)]


def test_an_embedding_only_graph_does_not_explain(indexing):
    backend = choose_embedding(indexing)
    with pytest.raises(BackendError, match=r"model\.embedding\.onnx, which gives no mask"):
        backend.run(np.zeros((1, 24, 32, 3), np.uint8))
    assert choose(indexing).run(np.zeros((1, 24, 32, 3), np.uint8))[1].shape == (1, 24, 32)


def test_each_class_takes_its_own_engine(toy, add, gpu):
    add(toy, "a-embedding", outputs=EMBEDDING_ONLY)
    add(toy, "b-whole")
    with closing(choose(toy)) as explains:
        assert explains.why.startswith("b-whole.engine")
        images = random_images(3)
        np.testing.assert_allclose(explains.embed(images), images.mean((1, 2)), rtol=1e-6)
    with Embedder(toy) as embedder:
        backend = embedder.backend
        assert (backend.outputs, backend.degraded) == (EMBEDDING_ONLY, "")
        assert backend.why.startswith("a-embedding.engine")
        for n in (4, 1, 3, 9):
            images = random_images(n)
            np.testing.assert_allclose(embedder(images), images.mean((1, 2)), rtol=1e-6)
        for call in (backend.run, backend.submit, backend.run_device):
            with pytest.raises(BackendError, match=r"a-embedding\.engine, which gives no mask"):
                call(random_images(1))
    assert not gpu.live()


def test_precision_matters_more_than_the_missing_mask(toy, add, gpu):
    """So that an index and the explanations of its queries have one embedding id where they can."""
    add(toy, "a-fp32-embedding", outputs=EMBEDDING_ONLY, precision="fp32")
    add(toy, "b-fp16")
    assert selection.select(toy, "8.9", mask=False).path.name == "b-fp16.engine"
    assert selection.select(toy, "8.9", "fp32", mask=False).path.name == "a-fp32-embedding.engine"
    add(toy, "c-embedding", outputs=EMBEDDING_ONLY)
    assert selection.select(toy, "8.9", mask=False).path.name == "c-embedding.engine"


def test_explaining_skips_embedding_only_engines(tiny, add, gpu):
    add(tiny, "a-embedding", outputs=EMBEDDING_ONLY)
    backend = choose(tiny)
    assert backend.name == "onnxruntime"
    assert "it gives the embedding alone" in backend.why
    with pytest.raises(EngineMismatch, match=r"a-embedding\.engine: it gives the embedding alone"):
        choose(tiny, "tensorrt")
    assert embedding_only_backend(tiny, backend) is None


def test_sidecars_name_outputs_only_without_a_mask(toy, add):
    """So that what knows no other engines reads those that explain."""
    add(toy, "toy")
    add(toy, "toy-embedding", outputs=EMBEDDING_ONLY)
    alone, both = (engine.record for engine in toy.engines())
    assert "outputs" not in json.loads(both.to_json())
    assert json.loads(alone.to_json())["outputs"] == list(EMBEDDING_ONLY)
    for record in (both, alone):
        assert EngineRecord.from_json(record.to_json(), source="sidecar") == record


def test_bench_and_verify_with_an_embedding_graph(indexing, capsys):
    assert main(["bench", str(indexing.path), "--seconds", "0", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["what"], r["batch"]) for r in rows][:4] == [
        *(("embedding and mask", n) for n in (1, 8)),
        *(("embedding alone", n) for n in (1, 8)),
    ]
    assert main(["verify", str(indexing.path), "--json"]) == 0
    embedding = json.loads(capsys.readouterr().out)["embedding_only"]
    assert embedding["embedding_error"] < 1e-3
    assert not any(name.startswith("mask") for name in embedding)


def test_bench_and_verify_without_an_embedding_graph(package_path, capsys):
    assert main(["bench", str(package_path), "--seconds", "0"]) == 0
    assert "embedding alone" not in capsys.readouterr().out
    assert main(["verify", str(package_path)]) == 0
    assert "the embedding alone" not in capsys.readouterr().out


def test_an_embedding_that_is_off_fails_the_gate(make_package, tmp_path):
    package = Package.open(make_package(tmp_path / "off.nemu", embedding_only=True, error=0.5))
    with pytest.raises(ParityError, match="embedding error"):
        verify_embedding(package, choose_embedding(package))


def test_info_marks_embedding_only_engines(tiny, add, capsys):
    add(tiny, "a-embedding", outputs=EMBEDDING_ONLY)
    add(tiny, "b-whole")
    assert main(["info", str(tiny.path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine")]
    assert ["embedding only" in line for line in lines] == [True, False]


def test_a_refused_embedder_leaves_nothing_open(toy, add, gpu):
    add(toy, "other", outputs=EMBEDDING_ONLY, compute_capability="8.7")
    with pytest.raises(EngineMismatch, match=r"other\.engine: built for compute capability 8\.7"):
        Embedder(toy, backend="tensorrt")
    assert not gpu.live()
