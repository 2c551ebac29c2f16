"""Explain a large folder with Ray Data, on several processes or machines that share a file system.

    images ──▶ workers (an Explainer each; files written by rename) ──▶ this process (the journal)

A worker that dies is started again and repeats its images, whose files are replaced.  Only this process
writes the journal, so every image is in it exactly once, in the order in which they were finished.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.choice import NAMES
from runtime.bulk.images import Form, Outcome, begun, library, skipped, write_files
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.media.sources import NamedImage
from runtime.package.folder import Package

_AT_ONCE = 8  # images in a batch, which a dead worker repeats


def explain_with_ray(
    explainer: Explainer,
    package: Package,
    images: list[NamedImage],
    folder: Path,
    form: Form = Form(),  # noqa: B008 (frozen)
    *,
    workers: int,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Like `runtime.bulk.images.explain_images`, with `workers` processes of a Ray cluster.

    The cluster is at `RAY_ADDRESS`, or is started on this machine.

    Args:
        explainer: defines the backend and the precision of the workers.
        package, folder: must have the same paths for every worker.

    Raises:
        InputError: the folder holds results of another embedding id.
        BackendUnavailable: Ray is not installed.
    """
    library("ray.data", "ray with its data library", 'pip install "ray[data]"')
    import ray

    outcome = Outcome([], 0, [])
    how = {
        "package": str(package.path.resolve()),
        "backend": name if (name := explainer.backend.name) in NAMES else "tensorrt",
        "precision": explainer.backend.precision,
    }
    options = {
        "how": how,
        "folder": folder.resolve(),
        "form": form,
        "ask": {"toward": toward, "fidelity": fidelity},
    }
    begin = begun(explainer, images, folder, form, package=package, toward=toward, force=force, quiet=quiet)
    with begin as (journal, bar, todo):
        for row in _rows(ray, todo, workers, options):
            if row["error"]:
                outcome.skipped.append({"image": row["image"], "error": row["error"]})
            else:
                journal.add(json.loads(row["line"]), np.asarray(row["embedding"], np.float32))
                outcome.written.append(row["name"])
            bar.update()
    return outcome._replace(known=len(images) - len(todo))


def _rows(ray: Any, images: list[NamedImage], workers: int, options: dict[str, Any]) -> Any:
    """Yield the results as they arrive, each image once."""
    if not images:
        return []
    started = not ray.is_initialized()
    if started:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"image": str(image.image.resolve()), "name": image.name} for image in images]
    blocks = max(workers, len(items) // _AT_ONCE)
    done = ray.data.from_items(items, override_num_blocks=min(blocks, len(items))).map_batches(
        Worker, fn_constructor_kwargs=options, batch_size=_AT_ONCE, concurrency=workers, num_cpus=1
    )  # Ray restarts dead workers and repeats their batches, as often as needed
    try:
        yield from done.iter_rows()
    finally:
        if started:
            ray.shutdown()


class Worker:
    """Explains batches: columns `image`, `name` → `name`, `image`, `line`, `embedding`, `error`."""

    def __init__(self, how: dict[str, Any], folder: Path, form: Form, ask: dict[str, Any]) -> None:
        self._explainer = Explainer(**how)
        self._folder, self._form, self._ask = folder, form, ask

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Explain one batch."""
        rows = [self._one(Path(str(i)), str(n)) for i, n in zip(batch["image"], batch["name"], strict=True)]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _one(self, image: Path, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name, "image": str(image), "line": "", "embedding": [], "error": ""}
        try:
            explanation = self._explainer(image, **self._ask)
            line = write_files(explanation, NamedImage(image, name), self._folder, self._form)
        except InputError as error:
            return {**row, **skipped(image, error)}
        return {**row, "line": json.dumps(line), "embedding": explanation.embedding.tolist()}
