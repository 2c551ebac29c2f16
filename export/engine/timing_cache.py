"""Keep classic TensorRT's kernel timings on this device from one build to the next.

A second build of the same layers reads the timings instead of measuring again.  They are in the user's cache
directory, in one file for each TensorRT version, GPU name, compute capability and driver.  The file begins
with the sha256 of the rest, which TensorRT serialised, so that a damaged file is found before TensorRT reads
it.

TensorRT-RTX measures nothing at build time and needs no cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.atomic import atomic_file
from runtime.backends import cuda

_DIGEST = 32


@contextmanager
def timing_cache(trt: ModuleType, config: Any, gpu: cuda.DeviceInfo | None, *, say: bool) -> Iterator[str]:
    """Give `config` the timings of earlier builds; at the end store those of this one, interrupted or not.

    Args:
        gpu: the GPU that builds; None (TensorRT-RTX) does nothing.
        say: print which file is used, on stderr.  A dropped file is always reported.

    Yields:
        `none`, `empty` or `filled` at the start of the build, for the sidecar.
    """
    if gpu is None:
        yield "none"
        return
    path = cache_file(trt, gpu)
    kept = _read(path)
    state = "filled" if kept and _set(config, kept) else "empty"
    if state == "empty":
        if kept:
            _drop(path, "TensorRT does not take it")
        _set(config, b"")
    if say:
        print(f"timing cache ({state}): {path}", file=sys.stderr)
    try:
        yield state
    finally:
        _store(path, config.get_timing_cache())


def _set(config: Any, blob: bytes) -> bool:
    """False if TensorRT refuses these timings: another device or version."""
    cache = config.create_timing_cache(blob)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def _store(path: Path, cache: Any) -> None:
    if cache is None:
        return
    blob = bytes(cache.serialize())
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
    except OSError as full:  # keep the engine, which is built
        print(f"timing cache {path} could not be kept: {full}", file=sys.stderr)


def cache_file(trt: ModuleType, gpu: cuda.DeviceInfo) -> Path:
    """The file of the timings for this TensorRT on this device."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = (trt.__version__, gpu.name, gpu.compute_capability, cuda.driver().cuda)
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", str(part)) for part in key)
    return base / "nemu" / "timing" / f"{name}.cache"


def _read(path: Path) -> bytes:
    """The bytes that TensorRT serialised; empty if there is no file, or a damaged one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
        return data[_DIGEST:]
    _drop(path, "it is damaged")
    return b""


def _drop(path: Path, why: str) -> None:
    print(f"timing cache {path} is dropped: {why}; this build measures again", file=sys.stderr)
    path.unlink()
