"""The network that TensorRT's parser makes of an ONNX file, checked against what was asked for."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from export.engine.layers import Layer, check_precision, check_turing, weighted_layers
from export.targets import TURING
from runtime.backends import cuda
from runtime.errors import ExportError
from runtime.package.manifest import TOWARD

Signature = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype, shape); -1 where an axis is free."""

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
