"""torch → ONNX: export, simplify, lint.

Opset and IR version are pinned low, because Python 3.10 on aarch64 resolves to an older onnxruntime and
JetPack 6 to TensorRT 10.3.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.numpy_helper

from export.graph import rules, session
from export.graph.session import Session
from export.targets import TARGETS
from runtime.errors import ExportError
from runtime.package.manifest import OUTPUTS, TOWARD

if TYPE_CHECKING:
    from export.graph.fuse import Fused

IR_VERSION = 10
INPUT = "image"
OPSETS = {"fp32": 18, "fp16": 18, "bf16": 22, "int8": 20}
"""Precision → opset of its graph, as low as possible: convolutions in bfloat16 need 22, float16 scales 19."""


def export_onnx(
    fused: Fused, *, height: int, width: int, opset: int = OPSETS["fp32"], toward: bool = False
) -> onnx.ModelProto:
    """The graph of `fused`, batch axis `N` free, everything else fixed.

    Args:
        toward: give the graph a second input, the targets.

    Raises:
        ExportError: the exporter could not trace the encoder.
    """
    import torch

    example = {INPUT: torch.zeros(2, height, width, 3, dtype=torch.uint8)}
    if toward:
        example[TOWARD] = torch.zeros(2, fused.nem.encoder.record.dimension)
    batch = torch.export.Dim("N", min=1, max=4096)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                fused,
                tuple(example.values()),
                dynamo=True,
                verbose=False,
                input_names=list(example),
                output_names=list(OUTPUTS),
                dynamic_shapes={name: {0: batch} for name in example},
                opset_version=opset,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(
                f"{fused.nem.encoder.record.id} could not be traced: {error}",
                expected="an encoder whose forward is free of data-dependent control flow",
                cure="try a newer torch, or wrap the encoder as module:factory without the part named above",
            ) from error
    if program is None:
        raise ExportError(
            f"torch {torch.__version__} returned no program",
            expected="torch 2.6 or newer, with its dynamo exporter",
            cure='pip install --upgrade "torch>=2.6" onnxscript',
        )
    model = program.model_proto
    model.ir_version = min(model.ir_version, IR_VERSION)
    _name_by_module(model)
    _one_type(model)
    return model


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The graph after onnxsim, if it is installed and keeps the outputs; and a code of what was done.

    The simplified graph must give the original's outputs on a random image within 1e-3 of their largest
    magnitude; otherwise the original is kept.

    Returns:
        The graph; `simplified:BEFORE:AFTER` with the numbers of nodes, or why it is the original: `too-large`
        (beyond protobuf's 2 GB), `bfloat16` (onnxruntime cannot check it), `no-onnxsim`, `onnxsim-failed`,
        `check-failed` (onnxsim's own), `outputs-moved:ERROR`.
    """
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 1_900_000_000:
        return model, "too-large"
    if any(t.data_type == onnx.TensorProto.BFLOAT16 for t in model.graph.initializer):
        return model, "bfloat16"
    try:
        import onnxsim
    except ImportError:
        return model, "no-onnxsim"
    try:
        simpler, consistent = onnxsim.simplify(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        return model, "onnxsim-failed"
    if not consistent:
        return model, "check-failed"
    simpler.ir_version = min(simpler.ir_version, IR_VERSION)
    worst = max(_difference(a, b) for a, b in zip(_outputs(model), _outputs(simpler), strict=True))
    if not worst < 1e-3:
        return model, f"outputs-moved:{worst:.1e}"
    return simpler, f"simplified:{len(model.graph.node)}:{len(simpler.graph.node)}"


def lint(model: onnx.ModelProto, *, opset: int = OPSETS["fp32"], toward: bool = False) -> None:
    """Refuse a graph that breaks the package's contract, or a rule for every TensorRT.

    Args:
        toward: the graph has the second input.

    Raises:
        ExportError: naming every node at fault.
    """
    faults = list(_faults(model, opset, toward))
    if faults:
        raise ExportError(
            "the graph would not run everywhere: " + "\n    ".join(faults),
            expected=f"opset {opset}, IR {IR_VERSION}, uint8 {INPUT} in, float32 {OUTPUTS} out, "
            "and no fault that export.graph.rules lists for every TensorRT",
            cure="rewrite that part of the encoder (tables as constants, nn.LayerNorm, plain interpolate)",
        )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `path`, and its weights as `path.data`, which runtimes can map into memory."""
    session.save(model, path)
    onnx.checker.check_model(str(path))


def _name_by_module(model: onnx.ModelProto) -> None:
    """Put the module's path before each node's name: `encoder.blocks.0.attn/node_MatMul_61`."""
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        if modules:
            node.name = f"{modules[-1].removeprefix('nem.')}/{node.name}"


def _one_type(model: onnx.ModelProto) -> None:
    """Round to bfloat16 the weights that the exporter left in float32: those it folded a BatchNorm into."""
    halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16}
    if not halves:
        return
    convolved = {name for n in model.graph.node if n.op_type.startswith("Conv") for name in n.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in convolved and tensor.data_type == onnx.TensorProto.FLOAT:
            bits = onnx.numpy_helper.to_array(tensor).view(np.uint32).astype(np.uint64)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to the nearest, ties to even
            raw = rounded.astype(np.uint16).tobytes()
            tensor.CopyFrom(
                onnx.helper.make_tensor(tensor.name, onnx.TensorProto.BFLOAT16, tensor.dims, raw, raw=True)
            )
    stale = [v for v in model.graph.value_info if v.name in convolved]
    for value in stale:
        model.graph.value_info.remove(value)


def _faults(model: onnx.ModelProto, wanted: int, toward: bool = False) -> Iterator[str]:
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset != wanted or model.ir_version > IR_VERSION:
        yield f"opset {opset}, IR {model.ir_version}"
    outputs = [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output]
    if outputs != [(name, onnx.TensorProto.FLOAT) for name in OUTPUTS]:
        yield f"outputs {outputs}"
    inputs = [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input]
    targets = [(TOWARD, onnx.TensorProto.FLOAT)] if toward else []
    if inputs != [(INPUT, onnx.TensorProto.UINT8), *targets]:
        yield f"inputs {inputs}"
    yield from map(str, rules.lint(model, TARGETS["onnx"], rules.EVERYWHERE))


def _outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    """The graph's outputs on one random image (toward a random target) in onnxruntime, not optimised."""
    rng = np.random.default_rng(0)
    shapes = {i.name: [d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    image = rng.integers(0, 256, shapes[INPUT], dtype=np.uint8)
    toward = rng.standard_normal(shapes[TOWARD], dtype=np.float32) if TOWARD in shapes else None
    return Session(model, as_written=True)(None, image, toward)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9))
