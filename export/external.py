"""A graph on disk whose weights lie beside it, in one file that runtimes can map."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

_LEAST = 1024
"""Bytes of a tensor that is worth a place in the other file."""


def save_beside(model: onnx.ModelProto, path: Path, whole: Path) -> None:
    """Write `path`; weights that are in `whole.data` already are named there, the others lie in `path`.

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
    """Write `path`, and its weights as `path.data`; the model's own are let go.

    onnx's own `save_as_external_data` does the same, but refuses where the folder that the user stands in
    holds a file of that name, wherever `path` is.
    """
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST:
            set_external_data(tensor, f"{path.name}.data")
    onnx.save_model(model, str(path))
