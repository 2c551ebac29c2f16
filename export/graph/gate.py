"""The parity gate: nothing enters a package without passing it.

The reference is the torch module in float32 on the reference images.  The ONNX graphs are compared with it as
onnxruntime runs them on the CPU.  For fp16 and bf16 the torch module in half precision is compared too:
onnxruntime computes half graphs in float32 on a CPU, so it checks the graph and not its arithmetic.
The measures and the negative control are in `runtime.package.parity`.

What is refused carries its reason as a code and numbers, so that a package can store it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

from export.graph.session import Session, widened
from runtime.errors import NemuError, ParityError
from runtime.package.parity import Parity
from runtime.package.reasons import CODES, Reason
from runtime.package.reference import Reference, limits_for

Error = TypeVar("Error", bound=NemuError)

_REFERENCE_CURE = "give reference images that differ more, with --reference FOLDER"
_HALF_CURE = (
    "half precision loses too much: build with --precision auto or with --precision fp32, or give more "
    "typical --reference images"
)
_CURES = {
    "fp32": "an operator of this graph is exported or simplified wrongly: build with --no-simplify; if that "
    "does not help, try another version of torch, onnx or onnxruntime",
    "int8": "eight bits lose too much: give more and more typical images with --calibration FOLDER, or build "
    "with --precision auto",
}


def gate(
    reference: Reference, name: str, embedding: np.ndarray, mask: np.ndarray, *, precision: str
) -> Parity:
    """Compare outputs for the reference's images with the reference.

    Args:
        name: what was compared, for the message.
        precision: its limits apply, see `runtime.package.parity.LIMITS`.

    Raises:
        ParityError: beyond the limits, with the likely cause.
    """
    parity = reference.compare(embedding, mask, precision=precision)
    if parity.failures(limits_for(precision)):
        raise refusal(
            ParityError,
            "gate",
            compared=name,
            precision=precision,
            parity=parity.to_json(),
            expected="outputs within the gate",
            cure=_CURES.get(precision, _HALF_CURE) if parity.control_failed else _REFERENCE_CURE,
        )
    return parity


def run_onnx(
    path: Path, images: np.ndarray, toward: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run a graph in onnxruntime on the CPU, one image at a time; a bfloat16 graph as its float32 copy."""
    model = onnx.load(str(path))
    if any(t.data_type == onnx.TensorProto.BFLOAT16 for t in model.graph.initializer):
        model = widened(model)
    return Session(model).explain(images, toward)


def refusal(kind: type[Error], code: str, *, expected: str, cure: str, **facts: Any) -> Error:
    """An error whose `came` is the sentence of a reason.

    Args:
        code: of `runtime.package.reasons.CODES`.
        facts: the numbers and names that the sentence needs; plain JSON values.
    """
    reason = {"code": code, **facts}
    error = kind(CODES[code](reason), expected=expected, cure=cure)
    error.reason = reason
    return error


def reason_of(error: NemuError) -> Reason:
    """The reason that an error carries; its message, without the cures in it, if it carries none."""
    if error.reason is not None:
        return error.reason
    lines = [line.strip() for line in error.came.splitlines()]
    return {"code": "error", "said": " ".join(line for line in lines if not line.startswith("cure:"))}


def refused_key(precision: str, *, toward: bool = False) -> str:
    """The key in `Manifest.refused` for the graph of a precision, or for its form that takes targets."""
    return f"{precision} toward targets" if toward else precision
