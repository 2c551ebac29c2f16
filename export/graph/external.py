"""Write a graph with its weights in a second file, which runtimes can map into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

_LEAST = 1024
"""Tensors of fewer bytes stay in the graph's own file."""


def save_beside(model: onnx.ModelProto, path: Path, whole: Path) -> None:
    """Write `path`; it refers to weights that are already in `whole.data`, and holds the others.

    Args:
        whole: a graph that `save` wrote, in the same folder.
    """
    content = whole.with_name(f"{whole.name}.data").read_bytes()
    there = {}
    for tensor in onnx.load(str(whole), load_external_data=False).graph.initializer:
        at = {entry.key: entry.value for entry in tensor.external_data}
        if at:
            start, length = int(at.get("offset", 0)), int(at["length"])
            there[hashlib.sha256(content[start : start + length]).digest()] = (at["location"], start, length)
    for tensor in model.graph.initializer:
        if found := there.get(hashlib.sha256(tensor.raw_data).digest()):
            location, start, length = found
            set_external_data(tensor, location, offset=start, length=length)
            tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`, and its weights as `path.data`; removes the weights from `model`.

    onnx's own `save_as_external_data` fails if the working directory holds a file of that name, wherever
    `path` is.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST:
            set_external_data(tensor, f"{path.name}.data")
    onnx.save_model(model, str(path))
