"""Say what is installed, what is missing, and the command that installs it."""

from __future__ import annotations

import dataclasses
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

from runtime.backends import ep_rtx
from runtime.backends.cuda import installed
from runtime.backends.tensorrt.selection import not_listed
from runtime.cli import jetson, jetson_checks
from runtime.errors import BackendUnavailable
from runtime.package.folder import Package


class Library(NamedTuple):
    """A library that some part of the project uses; looked up without importing it."""

    module: str
    distributions: tuple[str, ...]
    """Names of its distributions, to read its version."""
    purpose: str
    install: str
    wheel: str = ""
    """The module's name in NVIDIA's wheels, if it differs from that in the source package."""


_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
LIBRARIES = (
    Library("numpy", ("numpy",), "everything", "pip install numpy"),
    Library("onnxruntime", _ONNXRUNTIMES, "running on a CPU", "pip install onnxruntime"),
    Library("PIL", ("Pillow",), "reading and resizing images", "pip install Pillow"),
    Library("cuda.bindings", ("cuda-bindings",), "running engines", 'pip install "cuda-bindings>=12.6"'),
    Library("pycuda", ("pycuda",), "running engines, instead of cuda-bindings", "pip install pycuda"),
    Library(
        "tensorrt_rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
        "engines for RTX cards",
        'pip install "tensorrt-rtx>=1.7,<1.8"',
        "tensorrt_rtx_bindings",
    ),
    Library(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
        "engines for data-centre cards and Jetson",
        'pip install "tensorrt>=10,<12"; on a Jetson: sudo apt install python3-libnvinfer, and a virtual '
        "environment made with --system-site-packages",
        "tensorrt_bindings",
    ),
    Library(
        ep_rtx.MODULE, ("onnxruntime-ep-nv-tensorrt-rtx",), "RTX cards without an engine", ep_rtx.INSTALL
    ),
    Library("torch", ("torch",), "training", "pip install torch torchvision"),
    Library("timm", ("timm",), "training: the encoders", "pip install timm"),
    Library("lightning", ("lightning",), "training: the loop", "pip install lightning"),
    Library("safetensors", ("safetensors",), "training: weights on disk", "pip install safetensors"),
    Library("onnxscript", ("onnxscript",), "building packages", "pip install onnxscript"),
    Library("tqdm", ("tqdm",), "building engines: the progress bar", "pip install tqdm"),
    Library("onnx", ("onnx",), "building packages and engines", "pip install onnx"),
    Library("onnxsim", ("onnxsim",), "building: simpler graphs (optional)", "pip install onnxsim"),
)


def report(package: Package | None = None, *, root: Path = Path("/")) -> dict[str, Any]:
    """The facts as plain values: python, platform, jetson, nvidia, one entry per library, the next step.

    Args:
        package: estimates the memory it needs, and appears in the next step.
        root: root of the board's file system.
    """
    board, found = jetson.read(root), []
    if board is not None:
        weights = None if package is None else _weights(package)
        found = jetson_checks.findings(board, jetson.environment(), weights=weights, root=root)
    libraries = [
        {
            **library._asdict(),
            "installed": any(map(installed, filter(None, (library.module, library.wheel)))),
            "version": jetson.version(*library.distributions),
        }
        for library in LIBRARIES
    ]
    driver = nvidia_driver()
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.machine()}",
        "jetson": None if board is None else dataclasses.asdict(board),
        "findings": [finding._asdict() for finding in found],
        "nvidia": driver,
        "not_for_rtx": (unlisted := _not_for_rtx(driver)),
        "ep_rtx": _cards(),
        "libraries": libraries,
        "next": _next(
            found, libraries, package, _engine_libraries(driver, libraries, classic=bool(board or unlisted))
        ),
    }


def text(facts: dict[str, Any]) -> str:
    """The facts of `report` as text."""
    board = facts["jetson"]
    lines = [
        f"Python {facts['python']}, {facts['platform']}, {facts['executable']}",
        f"{'Jetson':15}{'no' if board is None else board['model'] or 'yes, model not known'}",
    ]
    for finding in facts["findings"]:
        lines.append(f"{'  ' + finding['level']:15}{finding['text']}")
        if finding["cure"]:
            lines.append(f"{'':15}{finding['cure']}")
    if board is None:
        none = "none found: engines cannot run here; the CPU is used"
        lines.append(f"{'NVIDIA driver':15}{facts['nvidia'] or none}")
    if facts["not_for_rtx"]:
        lines.append(f"{'':15}{facts['not_for_rtx']}")
    if facts["ep_rtx"]:
        lines.append(f"{'ep-rtx':15}{facts['ep_rtx']}")
    for library in facts["libraries"]:
        state = (library["version"] or "installed") if library["installed"] else "missing"
        lines.append(f"{library['module']:14} {state:12}{library['purpose']}")
        if not library["installed"]:
            lines.append(f"{'':27}{library['install']}")
    return "\n".join([*lines, f"next: {facts['next']}"])


def _engine_libraries(driver: str | None, libraries: list[dict[str, Any]], *, classic: bool) -> list[str]:
    """Modules that building an engine here needs; empty if no engine can run here.

    Args:
        driver: of `nvidia_driver`.
        classic: engines are built with the classic TensorRT, as on a Jetson, not with TensorRT-RTX.
    """
    if driver is None and not classic:
        return []
    here = {library["module"]: library["installed"] for library in libraries}
    either = here["tensorrt"] or (here["tensorrt_rtx"] and not classic)
    tensorrt = [] if either else ["tensorrt" if classic else "tensorrt_rtx"]
    return [*tensorrt, *([] if here["pycuda"] else ["cuda.bindings"]), "onnx", "tqdm"]


def _next(
    found: list[jetson_checks.Finding],
    libraries: list[dict[str, Any]],
    package: Package | None,
    engine_libraries: list[str],
) -> str:
    """The first problem's cure; without a problem, the next command."""
    for finding in found:
        if finding.level == jetson_checks.FIX and finding.cure:
            return finding.cure
    of_module = {library["module"]: library for library in libraries}
    for module in ("numpy", "onnxruntime", "PIL", *engine_libraries):
        if not of_module[module]["installed"]:
            return str(of_module[module]["install"])
    name = "PACKAGE" if package is None else package.path
    return (
        f"nemu build --package {name}" if engine_libraries else f"nemu explain {name} PHOTO… --out explained"
    )


def _weights(package: Package) -> int:
    """Bytes of the graph that an engine is built from: the half-precision one if it exists."""
    files = package.manifest.files
    graph = next(name for name in ("model.fp16.onnx", "model.int8.trt.onnx", "model.onnx") if name in files)
    paths = [package.path / name for name in (graph, f"{graph}.data") if name in files]
    return sum(path.stat().st_size for path in paths)


def nvidia_driver() -> str | None:
    """GPU name, driver version and compute capability; or the driver's version; None without a driver."""
    query = ("--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")
    try:
        cards = jetson.printed_by("nvidia-smi", *query).splitlines()
    except TimeoutError as error:
        return str(error)
    loaded = jetson.system_text(Path("/proc/driver/nvidia/version")) or ""
    return "; ".join(cards) or loaded.partition("\n")[0] or None


def _not_for_rtx(driver: str | None) -> str:
    """Why TensorRT-RTX does not support the first GPU of `nvidia_driver`; empty if it does."""
    words = (driver or "").partition(";")[0].split(", ")
    if len(words) != 3 or not (unlisted := not_listed(f"{words[0]} ({words[2]})", words[2])):
        return ""
    return f"{unlisted}: build its engines with tensorrt"


def _cards() -> str:
    """The cards that onnxruntime's TensorRT-RTX provider finds; empty if it is not installed."""
    if not installed(ep_rtx.MODULE):
        return ""
    try:
        return f"{len(ep_rtx.devices())} card(s) for --backend ep-rtx"
    except BackendUnavailable as error:
        return f"{error.came}; {error.cure}"
