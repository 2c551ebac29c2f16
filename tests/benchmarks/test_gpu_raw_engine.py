"""The engines that gpu_engine times, as far as they are made without a GPU: by TensorRT-RTX's own builder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.gpu_raw_engine import build
from runtime.errors import BackendError

pytestmark = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


def write(path: Path, *, operator: str) -> Path:
    """uint8 image (N, 4, 4, 3) → cast → `operator` → float32 embedding; no mask, as of an encoder alone."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["float"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4, 4, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def test_an_engine_with_one_output_is_built_for_one_shape(tmp_path: Path) -> None:
    plan = build("rtx", write(tmp_path / "encoder.onnx", operator="Relu"), (8, 4, 4, 3))
    assert len(plan) > 1000


def test_what_the_parser_refuses_comes_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no engine of bad\.onnx") as caught:
        build("rtx", write(tmp_path / "bad.onnx", operator="Unheard"), (1, 4, 4, 3))
    assert "Unheard" in str(caught.value)
