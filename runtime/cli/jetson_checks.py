"""Check whether this Jetson can build and run engines; each check names its cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.cli.jetson import Environment, Jetson, highest_mode

OK, NOTE, FIX = "ok", "note", "fix"
_MB, _GB = 1_000_000, 1_000_000_000


class Finding(NamedTuple):
    """Result of one check."""

    level: str
    """`ok`; `note`: works, but could be better; `fix`: does not work."""
    text: str
    cure: str | None = None


def findings(
    board: Jetson, here: Environment, *, weights: int | None = None, root: Path = Path("/")
) -> list[Finding]:
    """Run every check, in the order in which problems must be solved.

    Args:
        weights: bytes of the graph to build an engine from; None if there is no package.
        root: root of the file system.
    """
    return [
        *_release(board),
        *_python(board, here),
        *_tensorrt(board, here, root),
        *_cuda(board, here),
        *_memory(board, weights),
        *_power(board),
        *_clocks(board),
    ]


def _release(board: Jetson) -> Iterator[Finding]:
    known = board.carried
    if known is None:
        yield Finding(
            NOTE,
            f"L4T {board.l4t} is not in this version's table: its TensorRT is not known",
            "python3 -c 'import tensorrt; print(tensorrt.__version__)' must say 10 or newer",
        )
        return
    text = f"L4T {board.l4t} = JetPack {board.jetpack}: TensorRT {known.tensorrt}, CUDA {known.cuda}"
    if known.tensorrt.startswith("8."):
        cure = "upgrade to JetPack 6.1 or newer if the module takes it; the CPU works: --backend onnxruntime"
        yield Finding(FIX, f"{text}; TensorRT 8 cannot build these engines", cure)
    else:
        yield Finding(OK, text)


def _python(board: Jetson, here: Environment) -> Iterator[Finding]:
    if board.carried is None:
        return
    needed = board.carried.python
    if here.python == needed:
        yield Finding(OK, f"Python {here.python} is what JetPack's tensorrt is built for")
        return
    yield Finding(
        FIX,
        f"Python {here.python} cannot import JetPack's tensorrt, which is built for Python {needed}",
        f"/usr/bin/python{needed} -m venv --system-site-packages nemu-env",
    )


def _tensorrt(board: Jetson, here: Environment, root: Path) -> Iterator[Finding]:
    carried = board.carried
    if here.tensorrt is None:
        python = carried.python if carried else here.python
        installed = (root / f"usr/lib/python{python}/dist-packages/tensorrt").is_dir()
        if installed and here.virtual:
            yield Finding(
                FIX,
                "JetPack's tensorrt is installed, but this virtual environment does not see it",
                f"make it again: /usr/bin/python{python} -m venv --system-site-packages nemu-env",
            )
        elif not installed:
            yield Finding(
                FIX, "JetPack's tensorrt is not installed", "sudo apt install python3-libnvinfer tensorrt"
            )
        return
    if carried and here.tensorrt != "?" and here.tensorrt.split(".")[:2] != carried.tensorrt.split(".")[:2]:
        yield Finding(
            FIX,
            f"tensorrt {here.tensorrt} hides JetPack's own {carried.tensorrt}",
            "pip uninstall tensorrt tensorrt-cu12 tensorrt-cu13; on a Jetson, use JetPack's",
        )
        return
    yield Finding(OK, f"tensorrt {here.tensorrt} is found")


def _cuda(board: Jetson, here: Environment) -> Iterator[Finding]:
    major = int(board.carried.cuda.split(".")[0]) if board.carried else None
    wanted = f'pip install "cuda-bindings>={major},<{major + 1}"' if major else "pip install cuda-bindings"
    if here.cuda_bindings is not None:
        if major is None or here.cuda_bindings.split(".")[0] == str(major):
            yield Finding(OK, f"cuda-bindings {here.cuda_bindings}: CUDA graphs can be used")
        else:
            text = f"cuda-bindings {here.cuda_bindings} is for another CUDA than JetPack's {major}"
            yield Finding(FIX, text, wanted)
    elif here.pycuda is not None:
        yield Finding(NOTE, f"pycuda {here.pycuda} works, without CUDA graphs", wanted)
    else:
        yield Finding(FIX, "neither cuda-bindings nor pycuda is installed", wanted)


def _memory(board: Jetson, weights: int | None) -> Iterator[Finding]:
    if board.memory_free is None:
        return
    total = f" of {board.memory_total / _GB:.1f}" if board.memory_total else ""
    text = f"{board.memory_free / _GB:.1f}{total} GB of memory are free"
    if weights is None:
        yield Finding(OK, f"{text}; nemu doctor PACKAGE estimates how much is needed")
        return
    build, run = needed(weights)
    text += (
        f"; ESTIMATE for {weights / _MB:.0f} MB of weights: {build / _GB:.1f} GB to build "
        f"(1 GB and four times the weights), {run / _GB:.1f} GB to run (0.5 GB and twice the weights)"
    )
    cure = "close other programs, stop the desktop (sudo init 3), or build with --batch 1 --workspace 256"
    if board.memory_free >= build:
        yield Finding(OK, text)
    else:
        yield Finding(NOTE if board.memory_free >= run else FIX, text, cure)


def needed(weights: int) -> tuple[int, int]:
    """Estimated bytes for a build and for a run: a rule of thumb, not measured."""
    return _GB + 4 * weights, _GB // 2 + 2 * weights


def _power(board: Jetson) -> Iterator[Finding]:
    best = highest_mode(board.power_modes)
    if board.power_mode is None or best is None:
        unread = "nvpmodel -q" if board.power_mode is None else "/etc/nvpmodel.conf"
        yield Finding(NOTE, f"the power mode could not be read ({unread})", "sudo nvpmodel -q")
    elif board.power_mode == board.power_modes[best]:
        yield Finding(OK, f"power mode {board.power_mode}, the highest of this board")
    else:
        text = f"power mode {board.power_mode}; the highest of this board is {board.power_modes[best]}"
        yield Finding(NOTE, text, f"to measure: sudo nvpmodel -m {best} && sudo jetson_clocks")


def _clocks(board: Jetson) -> Iterator[Finding]:
    free = [name for name, held in board.clocks.items() if not held]
    if free:
        text = f"the clocks of {' and '.join(free)} follow the load: latencies will vary"
        yield Finding(NOTE, text, "to measure: sudo jetson_clocks")
    elif board.clocks:
        yield Finding(OK, f"the clocks of {' and '.join(board.clocks)} are locked at their highest frequency")
