"""Versions, device, commit and command, which every result records; and writing results to disk."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ParamSpec

from export.int8.speed import processor
from runtime.atomic import atomic_file
from runtime.backends import cuda
from runtime.cli.console import exit_code
from runtime.errors import BackendUnavailable

P = ParamSpec("P")

PACKAGES = (
    *("numpy", "torch", "torchvision", "timm", "lightning", "safetensors"),
    *("onnx", "onnxscript", "onnxsim", "onnxruntime", "cuda-bindings"),
    *("captum", "relax-xai", "quantus", "scikit-image", "scikit-learn"),
    *("tensorrt_rtx", "tensorrt"),
)


def exits(main: Callable[P, int]) -> Callable[P, int]:
    """Wrap a command's `main`: an error that a user may meet is printed, and its exit code returned."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **options: P.kwargs) -> int:
        return exit_code(lambda: main(*args, **options), stopped="what was finished is kept")

    return wrapped


def command(name: str, doc: str | None, *, json: bool = True) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`, with the first line of its docstring.

    Args:
        json: whether it must be given `--json`.
    """
    p = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(doc or "").partition("\n")[0]
    )
    if json:
        p.add_argument("--json", type=Path, required=True)
    return p


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows for the terminal, a line each."""
    return "\n".join(
        "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        for row in rows
    )


def finish(path: Path, rows: list[dict[str, Any]], **more: Any) -> int:
    """Print the rows of a result and write it with `meta`; returns 0."""
    print(lines(rows))
    write(path, {"meta": meta(), "rows": rows, **more})
    return 0


def meta() -> dict[str, Any]:
    """Versions, device, commit and command of this process, or `$COMMAND` if that is set."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": device_name(),
        "commit": _commit(),
        "command": os.environ.get("COMMAND") or _command(),
    }


def _command() -> str:
    """The command as it was typed: `python -m benchmarks.zoo …`, or the file's name for a script."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name.removesuffix(".__main__") if module else Path(sys.argv[0]).name
    return ("python -m " if module else "") + shlex.join([name, *sys.argv[1:]])


def device_name() -> str:
    """Name of the first GPU, or of the processor and why there is no GPU."""
    try:
        return cuda.device(0).name
    except BackendUnavailable as error:
        return f"{processor()}; no GPU: {error.came}"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def kept(folder: Path, name: str, key: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row that is read from FOLDER/NAME-DIGEST.json, or computed and written there.

    Args:
        key: everything that the row depends on; the digest is of it.
    """
    path = folder / f"{name}-{short_digest(key)}.json"
    row: dict[str, Any] = remembered(path, lambda: {"key": key, "row": compute()})["row"]
    return row


def remembered(path: Path, compute: Callable[[], Any]) -> Any:
    """What a JSON file holds; if it is not there, it is computed and written."""
    if not path.exists():
        write(path, compute())
    return json.loads(path.read_text())


def short_digest(key: Any) -> str:
    """8 hexadecimal digits of the key's JSON."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]


def write_compact(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with one line for each key and one for each row, so that lists of numbers stay short."""
    lines = []
    for name, value in content.items():
        if isinstance(value, list):
            inner = ",\n".join(f"  {json.dumps(one)}" for one in value)
            lines.append(f"{json.dumps(name)}: [\n{inner}\n]")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    with atomic_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Commit of the working tree, with `+changes` if files differ; `unknown` without git or a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
