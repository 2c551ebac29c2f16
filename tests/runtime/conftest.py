"""A real package, tiny: its embedding and mask are simple enough to know by heart."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from runtime.__main__ import main
from runtime.backends import cuda
from runtime.backends.fake import colour_and_brightness
from runtime.backends.tensorrt import selection
from runtime.explanation import Explanation
from runtime.index.stores import STORES
from runtime.media.geometry import Geometry
from runtime.package.folder import MANIFEST, REFERENCE, Package, files_in, sha256_file
from runtime.package.manifest import SCHEMA, Manifest
from runtime.package.records import EncoderRecord, InputRecord, MaskerRecord, OutputRecord, ParityRecord
from tests.engine_record import engine_record
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_gpu import Gpu
from tests.runtime.fake_tensorrt import EMBEDDING, TARGETS, fake_tensorrt

HEIGHT, WIDTH = 24, 32


def write_graph(path: Path) -> None:
    """uint8 (N, H, W, 3) → embedding (N, 3), mask (N, H, W); weights in an external file."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 20]>
        tiny (uint8[N, {HEIGHT}, {WIDTH}, 3] image)
            => (float[N, 3] embedding, float[N, {HEIGHT}, {WIDTH}] mask)
            <int64[2] area = {{2, 3}}, int64[1] channel = {{1}}>
        {{
            wide = Cast <to: int = {TensorProto.FLOAT}> (image)
            nchw = Transpose <perm = [0, 3, 1, 2]> (wide)
            scaled = Mul (nchw, scale)
            embedding = ReduceMean <keepdims: int = 0> (scaled, area)
            mask = ReduceMean <keepdims: int = 0> (scaled, channel)
        }}""")
    weights = np.full((1, 3, HEIGHT, WIDTH), 1 / 255, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "scale"))
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def manifest_for(root: Path) -> Manifest:
    """A manifest that names every file below `root`."""
    return Manifest(
        schema=SCHEMA,
        nemu="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        embedding_id="tiny-mean",
        encoder=EncoderRecord(
            id="tiny",
            embedding="pooled",
            dimension=3,
            fingerprint="0" * 64,
            l2_normalized=False,
            license="none",
        ),
        masker=MaskerRecord(architecture="tiny", sha256="0" * 64, objective="none", config={}),
        input=InputRecord(
            name="image",
            height=HEIGHT,
            width=WIDTH,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            resize="letterbox",
            crop_pct=1.0,
            interpolation="bilinear",
        ),
        outputs=(
            OutputRecord(name="embedding", shape=("N", 3), meaning="mean colour"),
            OutputRecord(name="mask", shape=("N", HEIGHT, WIDTH), meaning="brightness"),
        ),
        parity={"onnxruntime": ParityRecord(embedding_error=0.0)},
        files={name: sha256_file(path) for name, path in files_in(root)},
    )


def write_package(
    root: Path, *, error: float = 0.0, embedding_only: bool = False, cells: bool = False
) -> Path:
    """Write a package.

    Args:
        error: added to the reference embeddings.
        embedding_only: with a graph without the mask.
        cells: with a graph whose cells (N, 3, 6, 8) are the mean colours of 4 x 4 pixels.
    """
    root.mkdir()
    write_graph(root / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3), dtype=np.uint8)
    images = np.tile(images, (1, HEIGHT, WIDTH, 1)) // np.arange(1, WIDTH + 1, dtype=np.uint8)[:, None]
    embedding, mask = colour_and_brightness(images)
    np.savez(root / REFERENCE, images=images, embedding=embedding + np.float32(error), mask=mask)
    model = onnx.load(root / "model.onnx", load_external_data=False)
    model.graph.output.pop()  # the mask
    model.graph.node.pop()
    if embedding_only:
        (root / "model.embedding.onnx").write_bytes(model.SerializeToString())
    if cells:
        pool = helper.make_node("AveragePool", ["scaled"], ["cells"], kernel_shape=[4, 4], strides=[4, 4])
        model.graph.node.append(pool)
        shape = ["N", 3, HEIGHT // 4, WIDTH // 4]
        model.graph.output.append(helper.make_tensor_value_info("cells", TensorProto.FLOAT, shape))
        (root / "model.cells.onnx").write_bytes(model.SerializeToString())
    (root / "README.md").write_text("tiny\n")
    (root / MANIFEST).write_text(manifest_for(root).to_json())
    return root


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory) -> Path:
    return write_package(tmp_path_factory.mktemp("packages") / "tiny.nemu")


@pytest.fixture
def package_path(_tiny, tmp_path) -> Path:
    """A fresh copy that a test may damage."""
    return Path(shutil.copytree(_tiny, tmp_path / "tiny.nemu"))


@pytest.fixture
def tiny(package_path) -> Package:
    return Package.open(package_path)


@pytest.fixture
def with_input(tiny):
    """Make the package with other input settings, e.g. `with_input(resize="crop")`."""

    def change(**fields) -> Package:
        record = dataclasses.replace(tiny.manifest.input, **fields)
        return dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, input=record))

    return change


@pytest.fixture
def outputs():
    """`colour_and_brightness`, for tests that cannot import this file."""
    return colour_and_brightness


@pytest.fixture
def make_package():
    """`write_package`, for tests that cannot import this file."""
    return write_package


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A fake GPU of compute capability 8.9, with cuda-bindings and TensorRT 10.3; it checks CUDA's rules."""
    pretended = Gpu()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(cuda.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeDriver(pretended))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(pretended))
    cuda._implementation.cache_clear()
    yield pretended
    cuda._implementation.cache_clear()
    assert pretended.broken == []
    assert not pretended.stack()


@pytest.fixture
def rtx(gpu, monkeypatch) -> dict[str, str]:
    """Install a fake TensorRT-RTX 1.7; returns the record's fields of a portable engine for it."""
    fields = {"flavour": "rtx", "version": "1.7.1.116", "compute_capability": "portable"}
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(gpu, version=fields["version"], rtx=True))
    return fields


@pytest.fixture
def toy(tmp_path) -> Package:
    """A package without files, whose graph takes images of 4 x 6 pixels; `add` gives it engines."""
    how = {"mean": (0, 0, 0), "std": (1, 1, 1), "resize": "squash", "crop_pct": 1}
    record = InputRecord(name="image", height=4, width=6, interpolation="bilinear", **how)
    manifest = SimpleNamespace(input=record, embedding_id="toy", files={}, level=None)
    (tmp_path / "toy.nemu").mkdir()
    return Package(tmp_path / "toy.nemu", manifest, "0" * 64)


@pytest.fixture
def explanation() -> Explanation:
    """A crop of a wide image; the mask is 1 in the upper half of what was seen."""
    return Explanation(
        embedding=np.linspace(-1, 1, 7, dtype=np.float32),
        graph_mask=np.repeat(np.float32([1, 0]), 50).reshape(10, 10),
        placement=Geometry(height=10, width=10, resize="crop").place(30, 60),
        image=np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8),
        embedding_id="tiny-fp32",
        timing={"preprocess": 1.25, "run": 2.5, "batch": 1},
    )


@pytest.fixture
def rewrite():
    """Write a manifest with other fields and a fitting digest: `rewrite(path, **changes)`."""

    def rewrite_manifest(path: Path, **changes) -> None:
        manifest = Manifest.from_json((path / MANIFEST).read_text(), source="test")
        (path / MANIFEST).write_text(dataclasses.replace(manifest, **changes).to_json())

    return rewrite_manifest


@pytest.fixture
def add():
    """Add an engine to a package: `add(package, name, **changes)`; changes of the sidecar or of the plan."""

    def add_engine(package: Package, name: str, /, *, plan: bytes = b"a plan", **changes) -> None:
        plan = EMBEDDING if "outputs" in changes else TARGETS if "inputs" in changes else plan
        package.add_engine(name, plan, engine_record(package, plan, **changes))

    return add_engine


@pytest.fixture
def open_toy(toy, add, gpu):
    """`open_toy(**changes)` opens an engine of `toy`, which is added the first time.

    It is closed at the end, and nothing may stay open.
    """
    opened = []

    def open_engine(name: str = "toy", **changes):
        if name not in {engine.path.stem for engine in toy.engines()}:
            add(toy, name, **changes)
        opened.append(selection.open_backend(toy, toward="inputs" in changes))
        return opened[-1]

    yield open_engine
    while opened:
        opened.pop().close()
    gc.collect()
    assert not gpu.live()


@pytest.fixture(params=STORES)
def store(request) -> str:
    """Name of each store whose library is installed."""
    pytest.importorskip({"parquet": "pyarrow", "qdrant": "qdrant_client"}.get(request.param, request.param))
    return request.param


@pytest.fixture
def photos(tmp_path):
    """Sixteen wide images, each with one colour on the left and another on the right."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(16):
        colours = np.random.default_rng(i).integers(0, 256, (1, 2, 3), dtype=np.uint8)
        Image.fromarray(np.repeat(np.tile(colours, (30, 1, 1)), [20, 60], axis=1)).save(
            folder / f"{i:02d}.png"
        )
    return folder


@pytest.fixture
def made_index(package_path, photos, tmp_path):
    """A Parquet index of the photos."""
    out = tmp_path / "index"
    assert main(["index", str(package_path), str(photos), "--out", str(out), "--quiet"]) == 0
    return out
