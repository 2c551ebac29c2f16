"""The network that TensorRT's parser makes of an ONNX file, checked against what was asked for."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx as onnx_library

from export.graph.gate import refusal
from export.int8.for_tensorrt import FLOAT_LAYERS
from export.targets import TURING
from runtime.backends import cuda
from runtime.errors import ExportError
from runtime.package.manifest import TOWARD

Signature = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype, shape); -1 where an axis is free."""

PRECISIONS = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
_WEIGHTED = (*_CONVOLUTIONS, "MATRIX_MULTIPLY", "EINSUM")
"""Layer types that do arithmetic with weights; their output type is the engine's precision."""
_SHOWN = 20
"""At most this many layers are named."""
_INPUTS = {"image": "UINT8", TOWARD: "FLOAT"}


class Library(NamedTuple):
    """A TensorRT library, ready to build for one device."""

    trt: ModuleType
    flavour: str
    """One of `runtime.backends.tensorrt.library.FLAVOURS`."""
    log: Any
    """A logger of `runtime.backends.tensorrt.library.logger`."""
    builder: Any
    gpu: cuda.DeviceInfo | None
    """The GPU that is built on and for; None for TensorRT-RTX, which needs none."""
    capability: str
    """Compute capability to build for, or `portable`."""


class Layer(NamedTuple):
    """A layer that does arithmetic with weights."""

    name: str
    kind: str
    dtype: str
    """Type of its output; INT8 if activation and weight are both dequantised from int8."""


class Network(NamedTuple):
    """A parsed network; `definition` is TensorRT's own object."""

    definition: Any
    inputs: Signature
    outputs: Signature
    weighted: list[Layer]
    """The layers that do arithmetic with weights."""

    def tensor_types(self) -> dict[str, int]:
        """How many tensors of the network have which type: inputs, and outputs of every layer."""
        network = self.definition
        types = [network.get_input(i).dtype.name for i in range(network.num_inputs)]
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            types += [layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
        return dict(sorted(collections.Counter(types).items()))


def read_network(
    library: Library, onnx: Path, *, inputs: tuple[str, ...], outputs: tuple[str, ...], precision: str
) -> Network:
    """Parse the file into a strongly typed network.

    Raises:
        ExportError: the parser refuses the file, or names or types are not those asked for.
    """
    trt = library.trt
    network = library.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(library, network, onnx)
    found = _signature(network, onnx, inputs, outputs)
    weighted = weighted_layers(trt, network)
    check_precision(weighted, precision, onnx)
    if library.flavour == "rtx" and library.capability == TURING:
        check_turing(weighted, onnx)
    return Network(network, *found, weighted)


def _parse(library: Library, network: Any, onnx: Path) -> None:
    """Fill `network` from the file, or raise with everything that the parser says."""
    trt = library.trt
    parser = trt.OnnxParser(network, library.log)
    if parser.parse_from_file(str(onnx)):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node()} {error.node_name()} ({error.node_operator()})"
        reasons.append(f"{where}: {error.desc()}".replace("\n", "\n      "))
    raise ExportError(
        f"TensorRT's parser refuses {onnx.name}:\n    " + "\n    ".join(reasons or [library.log.text()]),
        expected="a graph of operators and types that it knows",
        cure="change the named nodes at export: for uint8 images cast before transposing, no antialiased"
        " Resize, equal types on both inputs of an addition",
    )


def _signature(
    network: Any, onnx: Path, wanted_inputs: tuple[str, ...], wanted_outputs: tuple[str, ...]
) -> tuple[Signature, Signature]:
    """Names, types and shapes of inputs and outputs, or `ExportError` if they break the contract."""
    inputs = _describe(network.get_input(i) for i in range(network.num_inputs))
    outputs = _describe(network.get_output(i) for i in range(network.num_outputs))
    contract = {name: _INPUTS[name] for name in wanted_inputs}, dict.fromkeys(wanted_outputs, "FLOAT")
    for kind, found, wanted in zip(("inputs", "outputs"), (inputs, outputs), contract, strict=True):
        types = {name: dtype for name, (dtype, _) in found.items()}
        if types != wanted:
            raise ExportError(
                f"{onnx.name} has the {kind} {types}",
                expected=f"exactly {wanted}",
                cure="export it with export.graph.fuse: uint8 image in (and float32 toward, for targets), "
                "float32 embedding and mask out",
            )
    return inputs, outputs


def _describe(tensors: Iterator[Any]) -> Signature:
    return {t.name: (t.dtype.name, tuple(int(side) for side in t.shape)) for t in tensors}


def weighted_layers(trt: ModuleType, network: Any) -> list[Layer]:
    """Every layer that does arithmetic with weights."""
    kinds = {getattr(trt.LayerType, name): name for name in _WEIGHTED}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producer = {x.get_output(i).name: x for x in layers for i in range(x.num_outputs)}

    def from_int8(tensor: Any) -> bool:
        source: Any = producer.get(tensor.name)
        while source is not None and source.type == trt.LayerType.SHUFFLE:
            source = producer.get(source.get_input(0).name)
        dequantized = source is not None and source.type == trt.LayerType.DEQUANTIZE
        return dequantized and source.get_input(0).dtype == trt.DataType.INT8

    def dtype(layer: Any) -> str:
        both = layer.num_inputs > 1 and all(from_int8(layer.get_input(i)) for i in range(2))
        return "INT8" if both else str(layer.get_output(0).dtype.name)

    return [Layer(x.name, kinds[x.type], dtype(x)) for x in layers if x.type in kinds]


def check_precision(weighted: list[Layer], precision: str, onnx: Path) -> None:
    """Compare the types of the parsed network with the precision that was asked for.

    Every convolution must be of that type, except those that an int8 graph lists as left in float.  Single
    matrix products may have another type (a head that is kept in float32 on purpose), but not all of them.

    Raises:
        ExportError: naming up to 20 layers of another type.
    """
    wanted = PRECISIONS[precision]
    kept = _float_layers(onnx) if precision == "int8" else set()
    other = [layer for layer in weighted if layer.dtype != wanted and layer.name not in kept]
    convolutions = [layer for layer in other if layer.kind in _CONVOLUTIONS]
    none = all(layer.dtype != wanted for layer in weighted)
    if convolutions or none:
        raise _other_type(convolutions or other or weighted, len(convolutions), none, precision, onnx)


def _other_type(
    layers: list[Layer], convolutions: int, none: bool, precision: str, onnx: Path
) -> ExportError:
    """The error for layers of another type than asked for."""
    shown = [f"{x.name}: {x.kind} in {x.dtype}" for x in layers]
    more = [f"… and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return refusal(
        ExportError,
        "layers",
        graph=onnx.name,
        precision=precision,
        none=none,
        convolutions=convolutions,
        layers=[*shown[:_SHOWN], *more],
        expected=f"convolutions and matrix products in {PRECISIONS[precision]}",
        cure=f"give a graph of that precision (model.fp16.onnx for fp16), or ask for other than {precision}",
    )


def check_turing(weighted: list[Layer], onnx: Path) -> None:
    """Refuse float32 matrix products, which TensorRT-RTX 1.7 does not compile for Turing (measured)."""
    wide = [x.name for x in weighted if x.kind not in _CONVOLUTIONS and x.dtype == "FLOAT"]
    if wide:
        raise refusal(
            ExportError,
            "turing",
            graph=onnx.name,
            n=len(wide),
            first=wide[0],
            expected="half precision: TensorRT-RTX compiles no float32 matrix product for Turing (7.5)",
            cure="--precision fp16, or leave Turing out: --target rtx-portable",
        )


def _float_layers(path: Path) -> set[str]:
    """The layers that an int8 graph lists as left in float, see `export.int8.for_tensorrt`."""
    model = onnx_library.load(str(path), load_external_data=False)
    said = {p.key: p.value for p in model.metadata_props}
    return set(json.loads(said.get(FLOAT_LAYERS, "[]")))
