"""A graph on disk whose weights lie beside it, in one file that runtimes can map."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

_LEAST = 1024
"""Bytes of a tensor that is worth a place in the other file."""


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`, and its weights as `path.data`; the model's own are let go.

    onnx's own `save_as_external_data` does the same, but refuses where the folder that the user stands in
    holds a file of that name, wherever `path` is.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST:
            set_external_data(tensor, f"{path.name}.data")
    onnx.save_model(model, str(path))
