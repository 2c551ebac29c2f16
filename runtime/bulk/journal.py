"""The journal of a run: one JSON line and one embedding for each finished image, so that a run can go on.

    explanations.jsonl    one line per image
    embeddings.npy        float32 (N, D): row i belongs to line i
    toward.npy            float32 (D,): the target of all images, if there is one
    run.json              `RunRecord`: the package and the options of the last run

The first two grow with the run and are complete after every image.  A kill between the two writes leaves
one row or half a line too many, which the next run drops.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from runtime.atomic import atomic_file
from runtime.errors import InputError, SchemaError
from runtime.media.occlusion import cosine
from runtime.package.typed_json import json_object, read

LINES, ROWS, TARGET, RUN = "explanations.jsonl", "embeddings.npy", "toward.npy", "run.json"
SAME_TARGET = 0.9999
"""Least cosine of two embeddings of one target."""
_HEADER = 128  # bytes of the .npy header, rewritten in place as rows are added

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`run.json`: the package and the options of the last run in a folder."""

    package: str
    """Path of the package."""
    package_hash: str
    embedding_id: str
    backend: str
    precision: str
    keep: float | None
    """Argument of `Explanation.overlay`."""
    style: str
    """Argument of `Explanation.overlay`."""
    written: str
    """Time in UTC, ISO 8601."""

    @classmethod
    def open(cls, folder: Path) -> RunRecord:
        """Read `run.json`.  Raises `InputError`: it is missing or cannot be read."""
        return read_json(
            cls,
            folder / RUN,
            expected="a folder that nemu explain wrote",
            cure="run the same nemu explain again (it keeps what is done), or give a package and images",
        )


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n")


def read_json(kind: type[Record], path: Path, *, expected: str, cure: str) -> Record:
    """Read a record that `write_json` wrote.  Raises `InputError`: it is missing or cannot be read."""
    try:
        return read(kind, json_object(path.read_text(errors="replace"), str(path)), str(path))
    except (OSError, SchemaError) as error:
        came = error.came if isinstance(error, SchemaError) else f"{path.parent} holds no {path.name}"
        raise InputError(came, expected=expected, cure=cure) from error


class Journal:
    """The finished results of a folder; appends the next one.

    Args:
        folder: created if it does not exist.
        embedding_id: id of the embeddings of this run.
        dimension: D of those embeddings.
        target: float32 (D,), the target of all images; None if each is explained by itself.
        force: drop what an earlier run wrote.

    Raises:
        InputError: the folder holds results of another embedding id or target, or a file that is no journal.
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
            self._write_target(target)
        self.done = set(names)
        """Names of the finished images."""
        self._count = len(names)
        self._lines = _open(self.lines_path, size)
        self._rows = _open(self.rows_path, _HEADER + self._count * self._row if names else 0)
        self._write_header()

    def add(self, line: Mapping[str, Any], embedding: np.ndarray) -> None:
        """Append an image: its line, with at least `name`, and its embedding float32 (D,)."""
        self._rows.seek(_HEADER + self._count * self._row)
        self._rows.write(embedding.astype("<f4").tobytes())
        self._count += 1
        self._write_header()
        self._lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._lines.flush()
        self.done.add(line["name"])

    def close(self) -> None:
        """Close both files; may be called twice."""
        self._rows.close()
        self._lines.close()

    def _write_header(self) -> None:
        shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._count}, {self._dimension}), }}"
        text = shape.ljust(_HEADER - 11) + "\n"
        self._rows.seek(0)
        self._rows.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())
        self._rows.flush()

    def _read(self, embedding_id: str, target: np.ndarray | None) -> tuple[list[str], int]:
        """Names in the lines whose row exists too, and the number of bytes of those lines."""
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
            raise self._unusable("holds masks toward another target, or none", "the target of its first run")
        return names, sum(len(line) + 1 for line in whole)

    def _write_target(self, target: np.ndarray | None) -> None:
        path = self.lines_path.with_name(TARGET)
        if target is None:
            path.unlink(missing_ok=True)
            return
        with atomic_file(path, force=True) as file, file.open("wb") as opened:
            np.save(opened, target)

    def _same_target(self, target: np.ndarray | None) -> bool:
        """Whether this is the target of the first run, up to rounding (an image is embedded again)."""
        path = self.lines_path.with_name(TARGET)
        if target is None or not path.is_file():
            return target is None and not path.is_file()
        earlier = np.load(path, allow_pickle=False)
        return earlier.shape == target.shape and cosine(earlier, target) >= SAME_TARGET

    def _unusable(self, what: str, expected: str) -> InputError:
        cure = "explain into another folder, or add --force to start anew"
        return InputError(f"{self.lines_path} {what}", expected=expected, cure=cure)


def _open(path: Path, size: int) -> BinaryIO:
    """Open for appending after the first `size` bytes; drops the rest."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file
