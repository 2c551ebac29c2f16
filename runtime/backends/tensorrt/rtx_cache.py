"""Keeps on disk what TensorRT-RTX has compiled for this GPU, so that the next start is faster."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtime.atomic import atomic_file
from runtime.backends.cuda.base import DeviceInfo
from runtime.package.folder import cache_folder
from runtime.package.manifest import EngineRecord


class RtxCache:
    """One file in the user's cache directory for each plan, library version and GPU.

    TensorRT-RTX itself checks the driver and refuses a file that it cannot use; that file is deleted.
    An error here never fails a run: without a cache an engine starts more slowly, and `log` says why.

    Args:
        record: the engine's record.
        gpu: the GPU that it runs on.
    """

    def __init__(self, record: EngineRecord, gpu: DeviceInfo) -> None:
        self.path: Path = cache_folder(record.package) / "compiled" / f"{engine_here(record, gpu)}.rtx"
        self.log: list[str] = []
        """Problems with the cache, one line each."""
        self._cache: Any = None
        self._on_disk = b""

    def load(self, config: Any) -> None:
        """Give a runtime configuration a cache, filled from the file if that is usable."""
        cache = config.create_runtime_cache()
        if cache is not None:
            self._fill(cache)
            if config.set_runtime_cache(cache):
                self._cache = cache
                return
        self.log.append("no compilation cache: TensorRT-RTX does not accept one")

    def _fill(self, cache: Any) -> None:
        try:
            self._on_disk = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.log.append(f"the compilation cache {self.path} cannot be read: {error}")
            return
        if not cache.deserialize(self._on_disk):
            self._on_disk = b""
            self.log.append(f"the compilation cache {self.path} is damaged or of another driver: deleted")
            self._delete()

    def save(self) -> None:
        """Write the file if something has been compiled since it was written."""
        if self._cache is None:
            return
        memory = self._cache.serialize()
        if memory is None:
            self.log.append("the compilation cache was not saved: TensorRT-RTX gave nothing to save")
            return
        if (content := bytes(memory)) == self._on_disk:
            return
        try:
            with atomic_file(self.path) as file:
                file.write_bytes(content)
        except OSError as error:
            self.log.append(f"the compilation cache {self.path} was not saved: {error}")
        else:
            self._on_disk = content

    def release(self) -> None:
        """Drop TensorRT's cache object; call it before the engine is released."""
        self._cache = None

    def _delete(self) -> None:
        try:
            self.path.unlink()
        except OSError as error:
            self.log.append(f"the compilation cache {self.path} cannot be deleted: {error}")


def engine_here(record: EngineRecord, gpu: DeviceInfo) -> str:
    """Stem of a file name for one plan, one version of its library and one kind of GPU."""
    key = f"{record.sha256} {record.version} {gpu.name} {gpu.compute_capability}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]
