"""What is installed here, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Library(NamedTuple):
    """A library that some part of the project uses; found without importing it."""

    module: str
    distributions: tuple[str, ...]
    """Names it is distributed under, for its version."""
    purpose: str
    install: str


_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
LIBRARIES = (
    Library("numpy", ("numpy",), "everything", "pip install numpy"),
    Library("onnxruntime", _ONNXRUNTIMES, "running on a CPU", "pip install onnxruntime"),
    Library("PIL", ("Pillow",), "reading and resizing pictures", "pip install Pillow"),
    Library("cuda.bindings", ("cuda-bindings",), "running engines", 'pip install "cuda-bindings>=12.6"'),
    Library("pycuda", ("pycuda",), "running engines, instead of cuda-bindings", "pip install pycuda"),
    Library(
        "tensorrt_rtx",
        ("tensorrt-rtx", "tensorrt_rtx"),
        "engines for RTX cards",
        'pip install "tensorrt-rtx>=1.7,<1.8"',
    ),
    Library(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "engines for data-centre cards and Jetson",
        'pip install "tensorrt>=10,<12"; on a Jetson: sudo apt install python3-libnvinfer, and a virtual '
        "environment made with --system-site-packages",
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


def report() -> dict[str, Any]:
    """Plain values: python, platform, jetson, nvidia, and one entry per library."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.machine()}",
        "jetson": _first_line(Path("/etc/nv_tegra_release")),
        "nvidia": nvidia_driver(),
        "libraries": [
            {**library._asdict(), "installed": installed(library.module), "version": version(library)}
            for library in LIBRARIES
        ],
    }


def text(facts: dict[str, Any]) -> str:
    """`report()` for people."""
    lines = [
        f"Python {facts['python']}, {facts['platform']}, {facts['executable']}",
        f"{'Jetson':15}{facts['jetson'] or 'no'}",
        f"{'NVIDIA driver':15}{facts['nvidia'] or 'none found: engines cannot run here, the CPU can'}",
    ]
    for library in facts["libraries"]:
        state = (library["version"] or "installed") if library["installed"] else "missing"
        lines.append(f"{library['module']:15}{state:12}{library['purpose']}")
        if not library["installed"]:
            lines.append(f"{'':27}{library['install']}")
    return "\n".join(lines)


def installed(module: str) -> bool:
    """Whether `module` can be found; its parent packages are imported, it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # no parent package; or a module made by hand, without a spec
        return False


def version(library: Library) -> str | None:
    """Version of the distribution that provides it, if that is known."""
    for name in library.distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def nvidia_driver() -> str | None:
    """GPU name, driver version, compute capability; or the driver alone; None if there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool:
        query = [tool, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"nvidia-smi does not answer ({error})"
        if answer.returncode == 0 and answer.stdout.strip():
            return "; ".join(answer.stdout.strip().splitlines())
    return _first_line(Path("/proc/driver/nvidia/version"))


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().partition("\n")[0] or None
    except OSError:
        return None
