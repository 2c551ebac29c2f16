"""Explain a large folder with Ray Data: on several processes or machines that share a file system.

    pictures ──▶ workers (an Explainer each; files written by rename) ──▶ this process (the journal)

A worker that dies is started again and does its pictures anew.  Its files replace themselves, and only this
process writes the journal, a line for each picture that arrives: every picture is in it exactly once, in
the order in which they were finished.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends import NAMES
from runtime.errors import BackendUnavailable, InputError
from runtime.explain import Outcome, begun, write_files
from runtime.explainer import Explainer
from runtime.sources import NamedImage

_AT_ONCE = 8  # pictures that a dead worker may have to do again


def explain_with_ray(
    explainer: Explainer,
    package: Path,
    pictures: list[NamedImage],
    folder: Path,
    *,
    workers: int,
    masks: str = "npy",
    overlays: str = "jpg",
    draw: dict[str, Any] | None = None,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Outcome:
    """What `runtime.explain.explain_pictures` does, by `workers` processes of a Ray cluster.

    The cluster is that of `RAY_ADDRESS`, or one is started on this machine.

    Args:
        explainer: of this process; says what is computed, and with which backend and precision.
        package, folder: seen by every worker at the same path.

    Raises:
        InputError: the folder holds results of another embedding id.
        BackendUnavailable: Ray is not installed.
    """
    ray = _ray()
    outcome = Outcome([], 0, [])
    options = {
        "package": str(package.resolve()),
        "backend": name if (name := explainer.backend.name) in NAMES else "tensorrt",
        "precision": explainer.backend.precision,
        "folder": str(folder.resolve()),
        "write": {"masks": masks, "overlays": overlays, "draw": draw},
        "ask": {"toward": toward, "fidelity": fidelity},
    }
    with begun(explainer, pictures, folder, toward=toward, force=force, quiet=quiet) as (journal, bar, todo):
        for row in _rows(ray, todo, workers, options):
            if row["error"]:
                outcome.skipped.append({"image": row["image"], "error": row["error"]})
            else:
                journal.add(json.loads(row["line"]), np.asarray(row["embedding"], np.float32))
                outcome.written.append(row["name"])
            bar.update()
    return outcome._replace(known=len(pictures) - len(todo))


def _rows(ray: Any, pictures: list[NamedImage], workers: int, options: dict[str, Any]) -> Any:
    """What comes back, as it comes, each picture once."""
    if not pictures:
        return []
    started = not ray.is_initialized()
    if started:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"image": str(picture.image.resolve()), "name": picture.name} for picture in pictures]
    blocks = max(workers, len(items) // _AT_ONCE)
    done = ray.data.from_items(items, override_num_blocks=min(blocks, len(items))).map_batches(
        Worker,
        fn_constructor_kwargs=options,
        batch_size=_AT_ONCE,
        concurrency=workers,
        num_cpus=1,
    )  # Ray starts a dead worker anew and repeats what it held, without end
    try:
        yield from done.iter_rows()
    finally:
        if started:
            ray.shutdown()


class Worker:
    """Explains batches: columns `image`, `name` → `name`, `image`, `line`, `embedding`, `error`."""

    def __init__(
        self,
        *,
        package: str,
        backend: str,
        precision: str,
        folder: str,
        write: dict[str, Any],
        ask: dict[str, Any],
    ) -> None:
        self._explainer = Explainer(package, backend=backend, precision=precision)
        self._folder, self._write, self._ask = Path(folder), write, ask

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """One batch."""
        rows = [self._one(Path(str(i)), str(n)) for i, n in zip(batch["image"], batch["name"], strict=True)]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _one(self, image: Path, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name, "image": str(image), "line": "", "embedding": [], "error": ""}
        try:
            explanation = self._explainer(image, **self._ask)
            line = write_files(explanation, NamedImage(image, name), self._folder, **self._write)
        except InputError as error:
            return {**row, "error": f"{error.came}; {error.cure}"}
        return {**row, "line": json.dumps(line), "embedding": explanation.embedding.tolist()}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendUnavailable(
            f"Ray Data is not here ({error})",
            expected="ray with its data library",
            cure='pip install "ray[data]"',
        ) from error
    return ray
