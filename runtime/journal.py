"""The journal of a run: a JSON line and an embedding for each picture that is done, so that a run goes on.

    explanations.jsonl    one line a picture
    embeddings.npy        float32 (N, D): row i belongs to line i
    toward.npy            float32 (D,): what all pictures are asked for, if that is not their own embedding

Both grow as the run does, and are whole after every picture.  A kill between the two writes leaves one row
or half a line too many, which the next run drops.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError
from runtime.occlusion import cosine

LINES, ROWS, TARGET = "explanations.jsonl", "embeddings.npy", "toward.npy"
SAME = 0.9999
"""Cosine of two targets that are one, computed twice."""
_HEADER = 128  # bytes of the .npy header, rewritten in place as rows are added


class Journal:
    """What is done in a folder, and where the next result is noted.

    Args:
        folder: is made if it is not there.
        embedding_id: what this run computes.
        dimension: D of its embeddings.
        target: what all pictures are asked for, float32 (D,); None where that is their own embedding.
        force: forget what an earlier run noted.

    Raises:
        InputError: the folder has results of another embedding id or target, or a journal that is none.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embedding_id: str,
        dimension: int,
        target: np.ndarray | None = None,
        force: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines_path, self.rows_path = folder / LINES, folder / ROWS
        self._row = 4 * dimension
        self._dimension = dimension
        names, size = ([], 0) if force else self._read(embedding_id, target)
        if not names:
            self._keep(target)
        self.done = set(names)
        """Names of the pictures that are noted."""
        self._count = len(names)
        self._lines = _open(self.lines_path, size)
        self._rows = _open(self.rows_path, _HEADER + self._count * self._row if names else 0)
        self._write_header()

    def add(self, line: Mapping[str, Any], embedding: np.ndarray) -> None:
        """Note a picture: its `name` and whatever else is known, and its embedding float32 (D,)."""
        self._rows.seek(_HEADER + self._count * self._row)
        self._rows.write(embedding.astype("<f4").tobytes())
        self._count += 1
        self._write_header()
        self._lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._lines.flush()
        self.done.add(line["name"])

    def close(self) -> None:
        """Close both files; may be called again."""
        self._rows.close()
        self._lines.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_header(self) -> None:
        shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._count}, {self._dimension}), }}"
        text = shape.ljust(_HEADER - 11) + "\n"
        self._rows.seek(0)
        self._rows.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())
        self._rows.flush()

    def _read(self, embedding_id: str, target: np.ndarray | None) -> tuple[list[str], int]:
        """Names of the lines whose row is there too, and the bytes those lines take."""
        if not self.lines_path.exists():
            return [], 0
        size = self.rows_path.stat().st_size if self.rows_path.exists() else 0
        rows = max(0, size - _HEADER) // self._row
        whole = self.lines_path.read_bytes().split(b"\n")[:-1][:rows]  # without a torn last line
        try:
            lines = [json.loads(line) for line in whole]
            names, ids = [line["name"] for line in lines], {line["embedding_id"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable(
                f"is no journal ({type(error).__name__}: {error})", "lines of its own"
            ) from error
        if ids - {embedding_id}:
            raise self._unusable(f"holds embeddings {', '.join(sorted(ids))}", embedding_id)
        if names and not self._same_target(target):
            raise self._unusable(
                "holds masks toward another target, or none", "the target that it began with"
            )
        return names, sum(len(line) + 1 for line in whole)

    def _keep(self, target: np.ndarray | None) -> None:
        path = self.lines_path.with_name(TARGET)
        if target is None:
            path.unlink(missing_ok=True)
            return
        with atomic_file(path, force=True) as file, file.open("wb") as opened:
            np.save(opened, target)

    def _same_target(self, target: np.ndarray | None) -> bool:
        """Whether this is the target of the run that began; a picture's is embedded anew, to rounding."""
        path = self.lines_path.with_name(TARGET)
        if target is None or not path.is_file():
            return target is None and not path.is_file()
        there = np.load(path, allow_pickle=False)
        return there.shape == target.shape and cosine(there, target) >= SAME

    def _unusable(self, what: str, expected: str) -> InputError:
        cure = "explain into another folder, or add --force to start anew"
        return InputError(f"{self.lines_path} {what}", expected=expected, cure=cure)


def _open(path: Path, size: int) -> BinaryIO:
    """Open for appending after the first `size` bytes; what comes after them is dropped."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file
