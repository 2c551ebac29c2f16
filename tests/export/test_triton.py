"""The model repository, read back by Triton's own protobuf."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.triton import write_repository
from runtime.errors import InputError, OutputExists
from runtime.package.folder import Package
from tests.engine_record import engine_record


def add(
    package: Package, capability: str, *, version: str = "10.3.0.30", flavour: str = "tensorrt", **more
) -> None:
    plan = f"{flavour} {version} {capability}".encode()
    fields = {"flavour": flavour, "version": version, "compute_capability": capability, **more}
    package.add_engine(f"{flavour}-{capability}", plan, engine_record(package, plan, **fields))


def read(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_repository_with_the_graph_for_any_server(copy, tmp_path):
    folder = write_repository(copy, tmp_path / "models", backend="onnxruntime")
    config = read(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 32)
    assert config.name == folder.name
    (image,) = config.input
    uint8 = model_config_pb2.TYPE_UINT8
    assert (image.name, image.data_type, list(image.dims)) == ("image", uint8, [64, 64, 3])
    embedding, mask = config.output
    manifest = copy.manifest
    assert (embedding.name, list(embedding.dims)) == ("embedding", [manifest.encoder.dimension])
    assert (mask.name, list(mask.dims)) == ("mask", [64, 64])
    assert {o.data_type for o in config.output} == {model_config_pb2.TYPE_FP32}
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert list(config.model_warmup[0].inputs["image"].dims) == [64, 64, 3]
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": np.zeros((3, *image.dims), np.uint8)})
    assert [list(o.shape[1:]) for o in outputs] == [list(o.dims) for o in config.output]


def test_repository_has_a_plan_for_each_gpu(copy, tmp_path):
    add(copy, "8.7")
    add(copy, "8.9")
    add(copy, "portable", flavour="rtx")
    folder = write_repository(copy, tmp_path / "models", backend="tensorrt")
    config = read(folder)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 4)
    assert dict(config.cc_model_filenames) == {"8.7": "sm87.plan", "8.9": "sm89.plan"}
    assert sorted(p.name for p in (folder / "1").iterdir()) == ["sm87.plan", "sm89.plan"]
    assert (folder / "1/sm89.plan").read_bytes() == b"tensorrt 10.3.0.30 8.9"
    assert "TensorRT 10.3.0.30" in (folder / "config.pbtxt").read_text()


def test_plans_no_server_can_load_are_refused(copy, tmp_path):
    with pytest.raises(InputError, match="no plan of classic TensorRT"):
        write_repository(copy, tmp_path / "models", backend="tensorrt")
    add(copy, "12.0", outputs=("embedding",))
    with pytest.raises(InputError, match="no plan of classic TensorRT"):
        write_repository(copy, tmp_path / "models", backend="tensorrt")
    add(copy, "8.7")
    add(copy, "8.9", version="10.13.3.9")
    with pytest.raises(InputError, match=r"plans of TensorRT 10\.13\.3\.9, 10\.3\.0\.30"):
        write_repository(copy, tmp_path / "models", backend="tensorrt")
    assert not (tmp_path / "models").exists()


def test_existing_model_is_kept_without_force(copy, tmp_path):
    write_repository(copy, tmp_path / "models", backend="onnxruntime")
    with pytest.raises(OutputExists):
        write_repository(copy, tmp_path / "models", backend="onnxruntime")
    write_repository(copy, tmp_path / "models", backend="onnxruntime", force=True)
