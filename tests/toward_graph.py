"""Targets for a package whose masker takes none: its own graphs, with a second input that dims the mask.

    mask for a target q = mask · strength(q), strength = sigmoid(mean q), and 1 for a q of zeros

That is simple enough to know by heart, and is not the mask of the image itself unless q is zero.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.package.folder import MANIFEST, REFERENCE, Package, sha256_file
from runtime.package.manifest import TOWARD, Manifest

GRAPHS = ("model.onnx", "model.fp16.onnx", "model.bf16.onnx")
HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def strength(toward: np.ndarray) -> np.ndarray:
    """float32 (N, D) → float32 (N,)."""
    given = np.abs(toward).sum(1) > 0
    return np.where(given, 1 / (1 + np.exp(-toward.mean(1, dtype=np.float32))), 1).astype(np.float32)


def with_toward(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes targets; the product inside is in the type of the graph's weights."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    dimension = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    kinds = {t.data_type for t in graph.initializer} & HALVES
    kind = next(iter(kinds), TensorProto.FLOAT)
    (maker,) = [node for node in graph.node if "mask" in node.output]
    maker.output[list(maker.output).index("mask")] = "own_mask"
    share = helper.make_tensor("toward_share", TensorProto.FLOAT, [dimension, 1], [1 / dimension] * dimension)
    constants = {"toward_one": np.float32([[1]]), "toward_none": np.float32([[0]])}
    axes = {"toward_axis": np.int64([1]), "toward_last": np.int64([2])}
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in {**constants, **axes}.items())
    graph.initializer.append(share)
    graph.node.extend(
        [
            helper.make_node("Abs", [TOWARD], ["toward_abs"]),
            helper.make_node("ReduceSum", ["toward_abs", "toward_axis"], ["toward_sum"], keepdims=1),
            helper.make_node("Greater", ["toward_sum", "toward_none"], ["toward_given"]),
            helper.make_node("Cast", [TOWARD], ["toward_typed"], to=kind),
            helper.make_node("Cast", ["toward_share"], ["share_typed"], to=kind),
            helper.make_node("MatMul", ["toward_typed", "share_typed"], ["toward_mean"], "toward_product"),
            helper.make_node("Cast", ["toward_mean"], ["toward_wide"], to=TensorProto.FLOAT),
            helper.make_node("Sigmoid", ["toward_wide"], ["toward_strength"]),
            helper.make_node("Where", ["toward_given", "toward_strength", "toward_one"], ["toward_factor"]),
            helper.make_node("Unsqueeze", ["toward_factor", "toward_last"], ["toward_dim"]),
            helper.make_node("Mul", ["own_mask", "toward_dim"], ["mask"]),
        ]
    )
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value, dimension]
    graph.input.append(helper.make_tensor_value_info(TOWARD, TensorProto.FLOAT, shape))
    return twin


def add_targets(root: Path) -> Package:
    """Write `….toward.onnx` beside every graph of a package, and targets into its reference.

    Each image's target is the next one's embedding; the last target is zeros, which means the image itself.
    """
    for name in GRAPHS:
        if (root / name).is_file():
            model = with_toward(onnx.load(str(root / name), load_external_data=False))
            (root / name).with_suffix(".toward.onnx").write_bytes(model.SerializeToString())
    with np.load(root / REFERENCE) as arrays:
        held = dict(arrays)
    toward = np.roll(held["embedding"], -1, axis=0)
    toward[-1] = 0
    held |= {"toward": toward, "toward_mask": held["mask"] * strength(toward)[:, None, None]}
    np.savez(root / REFERENCE, **held)
    reseal(root)
    return Package.open(root)


def reseal(root: Path) -> None:
    """Name every file of a package in its manifest again, after a test changed some."""
    manifest = Manifest.from_json((root / MANIFEST).read_text(), source="a test")
    names = {*manifest.files, *(path.name for path in root.glob("*.toward.onnx"))}
    files = {name: sha256_file(root / name) for name in sorted(names)}
    (root / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json())
