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
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from runtime.atomic import atomic_file
from runtime.backends import cuda

_DIGEST = 32


class TimingCache:
    """Give `config` the timings of earlier builds; at the end store those of this one, interrupted or not.

    Args:
        gpu: the GPU that builds; None (TensorRT-RTX) does nothing.
        say: print which file is used, on stderr.  A dropped file is always reported.
    """

    def __init__(self, trt: ModuleType, config: Any, gpu: cuda.DeviceInfo | None, *, say: bool) -> None:
        self._config = config
        self._say = say
        self._path = None if gpu is None else cache_file(trt, gpu)
        self.state = "none" if gpu is None else "empty"
        """`none`, `empty` or `filled` at the start of the build, for the sidecar."""

    def __enter__(self) -> TimingCache:
        if self._path is not None:
            kept = _read(self._path)
            if kept and self._set(kept):
                self.state = "filled"
            else:
                if kept:
                    _drop(self._path, "TensorRT does not take it")
                self._set(b"")
            if self._say:
                print(f"timing cache ({self.state}): {self._path}", file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cache = None if self._path is None else self._config.get_timing_cache()
        if cache is None or self._path is None:
            return
        blob = bytes(cache.serialize())
        try:
            with atomic_file(self._path) as temporary:
                temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        except OSError as full:  # keep the engine, which is built
            print(f"timing cache {self._path} could not be kept: {full}", file=sys.stderr)

    def _set(self, blob: bytes) -> bool:
        """False if TensorRT refuses these timings: another device or version."""
        cache = self._config.create_timing_cache(blob)
        return cache is not None and bool(self._config.set_timing_cache(cache, False))


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
