"""Imports the TensorRT library of each flavour, and asks TensorRT-RTX whether a plan is valid.

`rtx` is TensorRT-RTX (cards of the RTX family; builds engines without a GPU).  `tensorrt` is the classic
library (data centre, Jetson), versions 10.0 to 11.4.  Both have the same Python API for the calls used here.
"""

from __future__ import annotations

import collections
import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from runtime.errors import BackendUnavailable, InputError

FLAVOURS = ("rtx", "tensorrt")
"""Values of `EngineRecord.flavour`."""

_MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_INSTALL = {
    "rtx": 'pip install "tensorrt-rtx>=1.7,<1.8"',
    "tensorrt": (
        "on a Jetson use JetPack's own TensorRT, from a virtual environment made with"
        ' --system-site-packages; elsewhere pip install "tensorrt>=10,<12", whose libraries come from'
        " NVIDIA's own package index"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Validity:
    """The answer of TensorRT-RTX about a plan on this machine, before it is loaded."""

    answer: str
    """`VALID`, `SUBOPTIMAL` or `INVALID`."""
    reasons: tuple[str, ...]
    """Names of the diagnostics, e.g. `MALFORMED_ENGINE`."""
    meaning: str
    """Answer and reasons as a sentence."""


_REASONS = {
    "VERSION_MISMATCH": "it was built by another version of TensorRT-RTX",
    "UNSUPPORTED_CC": "TensorRT-RTX, or this plan of it, does not support the GPU's compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is corrupt, or not a TensorRT-RTX plan",
    "CUDA_ERROR": "the CUDA driver or runtime is not installed correctly",
}


def library(flavour: str) -> ModuleType:
    """Import the library of `flavour`.

    Raises:
        InputError: no such flavour.
        BackendUnavailable: it is not installed, does not load, or is older than TensorRT 10.
    """
    if flavour not in _MODULES:
        raise InputError(
            f"TensorRT flavour {flavour!r}",
            expected="one of " + ", ".join(FLAVOURS),
            cure="use rtx for RTX cards and for machines without a GPU, tensorrt for data centre and Jetson",
        )
    name = _MODULES[flavour]
    trt = _load(name, flavour)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise BackendUnavailable(
            f"{name} {trt.__version__} has no strongly typed networks",
            expected="TensorRT 10.0 or newer (JetPack 6.1 or newer)",
            cure="upgrade JetPack, or use the package on the CPU: backend='onnxruntime'",
        )
    return trt


def _load(name: str, flavour: str) -> ModuleType:
    """Import `name`; if only NVIDIA's wheel with the bindings is installed, its module of another name."""
    came, cause = f"{name} is not installed, nor is {name}_bindings", None
    for module in (name, f"{name}_bindings"):
        try:
            return _called(name, importlib.import_module(module))
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != module:
                came, cause = f"{module} is installed but does not load: {error}", error
                break
    expected = f"{name}, for engines of flavour {flavour}"
    raise BackendUnavailable(came, expected=expected, cure=_INSTALL[flavour]) from cause


@functools.cache
def _called(name: str, module: ModuleType) -> ModuleType:
    """`module`, renamed to `name`; always the same object, because `logger` caches by it."""
    if module.__name__ == name:
        return module
    renamed = ModuleType(name)
    vars(renamed).update(vars(module), __name__=name)
    return renamed


def version(flavour: str) -> str:
    """Exact version of the library of `flavour`, e.g. `1.7.1.116`; raises the errors of `library`."""
    return str(library(flavour).__version__)


@functools.cache
def logger(trt: ModuleType) -> Any:
    """The logger of this process for `trt`, which keeps the last warnings; TensorRT ignores a second one."""

    class KeepWarnings(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: collections.deque[str] = collections.deque(maxlen=200)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING):
                self.lines.append(f"{severity.name}: {message}")

        def text(self) -> str:
            return "\n    ".join(self.lines) or "(TensorRT logged nothing)"

    return KeepWarnings()


def validity(plan: bytes) -> Validity:
    """Ask TensorRT-RTX whether a plan of flavour `rtx` can run on this machine.

    Without a driver it reads the header only, and can only tell whether the file is a plan.  The hash in the
    engine's sidecar finds damage after the header.

    Raises:
        BackendUnavailable: tensorrt_rtx is not installed.
    """
    trt = library("rtx")
    log = logger(trt)
    log.lines.clear()
    answer, bits = trt.Runtime(log).get_engine_validity(plan)
    names = trt.EngineInvalidityDiagnostics.__members__.items()
    reasons = tuple(name for name, bit in names if int(bits) & int(bit))
    return Validity(answer=answer.name, reasons=reasons, meaning=_meaning(answer.name, reasons))


def _meaning(answer: str, reasons: Sequence[str]) -> str:
    """The answer of `get_engine_validity` as a sentence."""
    because = "; ".join(_REASONS.get(reason, reason) for reason in reasons)
    if answer == "INVALID" and not reasons:
        # tensorrt_rtx 1.7.1 answers INVALID without a reason for a good plan where there is no driver.
        return "no usable driver: the file has a plan's header; the rest cannot be checked on this machine"
    if answer == "VALID":
        return "valid on this machine"
    word = "runs here, but not at its best" if answer == "SUBOPTIMAL" else "cannot run here"
    return f"{word}: {because}" if because else word
