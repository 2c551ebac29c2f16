"""Write one ONNX file of a package in the form of another program.

A file is written only if it gives the reference outputs of the package within the gate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from export.graph.from_torch import INPUT
from export.graph.gate import gate
from export.graph.session import Session, copied
from runtime.atomic import atomic_file, refuse_existing
from runtime.errors import ExportError
from runtime.package.folder import GRAPHS, Package
from runtime.package.manifest import OUTPUTS
from runtime.package.reference import Reference, load_reference

PRECISIONS = ("fp32", "fp16")


def float_nchw(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose input is float32 (N, 3, H, W), values 0 to 255; normalisation stays inside.

    Raises:
        ExportError: the graph does not begin with this project's cast and transpose.
    """
    model = copied(model)
    graph = model.graph
    image = graph.input[0]
    cast = next((n for n in graph.node if INPUT in n.input), None)
    turned = next((n for n in graph.node if cast is not None and cast.output[0] in n.input), None)
    if cast is None or turned is None or (cast.op_type, turned.op_type) != ("Cast", "Transpose"):
        raise ExportError(
            "the graph does not begin with Cast and Transpose",
            expected="a graph that nemu build wrote",
            cure="build the package again",
        )
    batch, height, width, channels = image.type.tensor_type.shape.dim
    sides = [batch.dim_param or batch.dim_value, channels.dim_value, height.dim_value, width.dim_value]
    image.CopyFrom(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, sides))
    stale = {cast.output[0], turned.output[0]}
    graph.node.remove(turned)
    cast.output[0] = turned.output[0]
    for value in [v for v in graph.value_info if v.name in stale]:
        graph.value_info.remove(value)
    return model


def drop_mask(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the mask, and without every node and weight that only the mask needs."""
    model = copied(model)
    graph = model.graph
    graph.output.remove(next(o for o in graph.output if o.name == OUTPUTS[1]))
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):  # nodes stand in the order of computation
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    for field, left in (
        (graph.node, kept[::-1]),
        (graph.initializer, [t for t in graph.initializer if t.name in needed]),
        (graph.value_info, [v for v in graph.value_info if v.name in needed]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in left]
        del field[:]
        field.extend(copies)
    return model


def write_beside(graph: Path, file: str, reference: Reference, *, precision: str) -> None:
    """Write a graph without the mask beside the whole one; it uses the weights in the `.data` of that one.

    Args:
        graph: a graph of a package that is being made.
        file: name of the new file.

    Raises:
        ParityError: it does not give the reference embeddings.
    """
    path = graph.with_name(file)
    path.write_bytes(drop_mask(onnx.load(str(graph), load_external_data=False)).SerializeToString())
    embedding = np.stack([*map(Session(path).embed, reference.images)])
    gate(reference, file, embedding, reference.mask, precision=precision)


def write(
    package: Package,
    out: Path,
    *,
    precision: str = "fp32",
    nchw: bool = False,
    embedding_only: bool = False,
    force: bool = False,
) -> Path:
    """Write the graph into `out`, whole; its weights lie inside the file.

    Args:
        precision: the graph of the package to write, `fp32` or `fp16`.
        nchw: give it a float32 (N, 3, H, W) input, see `float_nchw`.
        embedding_only: leave out the mask.

    Raises:
        PackageError: the package was built without that precision.
        ParityError: it does not give the reference outputs.
        OutputExists: `out` is there and `force` is not given.
    """
    refuse_existing(out, force=force)
    model = onnx.load(str(package.file(GRAPHS[precision])))
    model = float_nchw(model) if nchw else model
    model = drop_mask(model) if embedding_only else model
    reference = load_reference(package)
    names = [output.name for output in model.graph.output]
    images = reference.images.transpose(0, 3, 1, 2).astype(np.float32) if nchw else reference.images
    session = Session(model)
    pieces = [session(names, images[i : i + 1]) for i in range(len(images))]
    outputs = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    gate(
        reference,
        out.name,
        outputs[0],
        outputs[1] if len(outputs) > 1 else reference.mask,
        precision=precision,
    )
    with atomic_file(out, force=force) as file:
        onnx.save_model(model, str(file))
    return out
