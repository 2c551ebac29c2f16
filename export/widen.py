"""The float32 twin of a half graph: the same nodes and the same (rounded) weights, computed in float32.

onnxruntime computes half graphs in float32 on a CPU anyway, and has no bfloat16 kernels there at all.  The
twin says whether a graph was exported rightly; what its own arithmetic loses, torch says.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every float16 and bfloat16 is float32; integers and scales' values are untouched."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        _widen(tensor)
    for node in twin.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "output_dtype", "dtype") and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
    return twin


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALVES:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
