"""The table of targets: for each, its TensorRT, the GPUs it runs on, and the engines that are built here.

Engines of TensorRT-RTX are built on any machine.  Those of classic TensorRT are built on the device itself
(`tensorrt`).  For a device elsewhere (`jetpack6`, …) the graph is checked for known faults
(`export.graph.rules`), and nothing is built.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass

from runtime.backends import cuda
from runtime.backends.tensorrt.library import version
from runtime.backends.tensorrt.selection import RTX_CAPABILITIES
from runtime.errors import BackendUnavailable, InputError

PORTABLE = "portable"
"""A plan of TensorRT-RTX for GPUs of compute capability 8.0 and newer, finished on the GPU that loads it."""

TURING = "7.5"
"""TensorRT-RTX 1.7 builds float32 convolutions for it and refuses float32 matrix products (measured)."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row of the table."""

    name: str
    what: str
    """For the help."""
    flavour: str | None = None
    """Library that builds its engines, of `runtime.backends.tensorrt.library.FLAVOURS`; None builds none."""
    tensorrt: tuple[int, int] | None = None
    """The version whose parser reads the graph; None if the installed library decides, or none is used."""
    gpus: tuple[str, ...] = ()
    """Compute capabilities that the graph must run on."""
    engines: tuple[str, ...] = ()
    """Compute capabilities, for each of which an engine is built; classic TensorRT has this device's."""


_ROWS = (
    Target(name="onnx", what="the graphs alone, no engine"),
    Target(
        name="rtx",
        what="RTX cards: an engine for 8.0 and newer, and one for Turing (7.5)",
        flavour="rtx",
        gpus=("8.0", "7.5"),
        engines=(PORTABLE, "7.5"),
    ),
    Target(
        name="rtx-portable",
        what="RTX cards of 8.0 and newer alone",
        flavour="rtx",
        gpus=("8.0",),
        engines=(PORTABLE,),
    ),
    *(
        Target(
            name="rtx-sm" + capability.replace(".", ""),
            what=f"RTX cards of compute capability {capability} alone",
            flavour="rtx",
            gpus=(capability,),
            engines=(capability,),
        )
        for capability in RTX_CAPABILITIES
    ),
    Target(
        name="tensorrt",
        what="this device, with the classic TensorRT that is installed on it",
        flavour="tensorrt",
    ),
    Target(
        name="jetpack6",
        what="check for JetPack 6.1 to 6.2.2 (Orin, TensorRT 10.3)",
        tensorrt=(10, 3),
        gpus=("8.7",),
    ),
    Target(
        name="jetpack7",
        what="check for JetPack 7.0 and 7.1 (Thor, TensorRT 10.13)",
        tensorrt=(10, 13),
        gpus=("11.0",),
    ),
    Target(
        name="jetpack7.2",
        what="check for JetPack 7.2 (Orin and Thor, TensorRT 10.16)",
        tensorrt=(10, 16),
        gpus=("8.7", "11.0"),
    ),
    Target(
        name="datacenter",
        what="check for data-centre cards (TensorRT 11.4)",
        tensorrt=(11, 4),
        gpus=("7.5", "8.0", "8.6", "8.9", "9.0", "10.0"),
    ),
)
TARGETS = {row.name: row for row in _ROWS}

_OLD = "its TensorRT 8 has no strongly typed networks, which nemu needs to set the precision"
_NOT_RTX = "it is not among the GPUs that TensorRT-RTX supports"
REFUSED = {
    "jetpack5": (_OLD, "upgrade to JetPack 6.1 or newer if the module takes it, or run on the CPU there"),
    "jetpack6.0": (_OLD, "upgrade the device to JetPack 6.1 or newer; then --target jetpack6"),
    **{
        f"rtx-sm{number}": (_NOT_RTX, "build on that device with its classic TensorRT: --target tensorrt")
        for number in (87, 90, 100, 103, 110)
    },
}
"""Names that people may try → why there is no such target, and what to use instead."""


def find(name: str) -> Target:
    """The target of that name; `tensorrt` gets the version and the GPU of this device.

    Raises:
        InputError: no such target, or one that nemu cannot build for.
        BackendUnavailable: `tensorrt`, and the library, the driver or the GPU is not here.
    """
    if name in REFUSED:
        why, cure = REFUSED[name]
        raise InputError(f"target {name}: {why}", expected="one of " + ", ".join(TARGETS), cure=cure)
    if name not in TARGETS:
        raise InputError(
            f"target {name!r}",
            expected="one of " + ", ".join(TARGETS),
            cure="nemu build --help says what each is for",
        )
    return _here() if name == "tensorrt" else TARGETS[name]


def default() -> Target:
    """The target that this machine can build: classic TensorRT if it is here with a GPU, else RTX.

    Raises:
        BackendUnavailable: neither library is here, or only the classic one, without a GPU.
    """
    installed = {
        name: any(importlib.util.find_spec(module) for module in (name, f"{name}_bindings"))
        for name in ("tensorrt", "tensorrt_rtx")
    }
    if not any(installed.values()):
        raise BackendUnavailable(
            "neither tensorrt nor tensorrt_rtx is installed",
            expected="the library that the engine is for",
            cure="nemu doctor says how to get them; on a Jetson JetPack's own is used",
        )
    if not installed["tensorrt_rtx"]:
        return find("tensorrt")
    if installed["tensorrt"] and _has_gpu():
        return find("tensorrt")
    return find("rtx")


def can(capability: str, precision: str) -> bool:
    """Whether a GPU of that compute capability has the type: bf16 came with 8.0, which `portable` means."""
    return precision != "bf16" or capability == PORTABLE or _number(capability) >= (8, 0)


def _number(text: str) -> tuple[int, ...]:
    """`8.7` → (8, 7), to compare versions and compute capabilities."""
    return tuple(int(part) for part in text.split("."))


def _here() -> Target:
    here = version("tensorrt")  # first, so that a missing library is reported before a missing driver
    capability = cuda.device().compute_capability
    major, minor, *_ = _number(here)
    return dataclasses.replace(
        TARGETS["tensorrt"], tensorrt=(major, minor), gpus=(capability,), engines=(capability,)
    )


def _has_gpu() -> bool:
    try:
        cuda.device()
    except BackendUnavailable:
        return False
    return True
