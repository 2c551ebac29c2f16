"""Ray Data on a local cluster of two workers, one of which is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.cluster import explain_with_ray
from runtime.errors import InputError
from runtime.explain import explain_pictures
from runtime.journal import LINES, ROWS
from runtime.sources import find_named_images

ray = pytest.importorskip("ray")
PICTURES = 60


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(PICTURES):
        noise = np.random.default_rng(i).integers(0, 256, (400, 600, 3), dtype=np.uint8)  # slow to write
        Image.fromarray(noise).save(folder / f"{i:03}.bmp")
    (folder / "broken.png").write_text("no picture")
    return find_named_images([folder])


def held(folder) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (folder / LINES).read_text().splitlines()]
    assert len(lines) == len({line["name"] for line in lines})
    rows = np.load(folder / ROWS)
    return {line["name"]: row.tolist() for line, row in zip(lines, rows, strict=True)}


def workers() -> list[int]:
    """Processes of Ray's that hold one of ours."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(command.parent.name))
    return found


def test_a_killed_worker_loses_and_doubles_nothing(package_path, pictures, tmp_path):
    killed = []
    out = tmp_path / "out"

    def kill_one():
        """As soon as there is a first result, the process that holds a worker."""
        until = time.monotonic() + 120
        while not list(out.glob("*.overlay.jpg")) and time.monotonic() < until:
            time.sleep(0.01)
        pid = workers()[0]
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        killer = threading.Thread(target=kill_one)
        killer.start()
        with Explainer(package_path) as explainer:
            outcome = explain_with_ray(explainer, package_path, pictures, out, workers=2, quiet=True)
            alone = explain_pictures(explainer, pictures, tmp_path / "alone", quiet=True)
        killer.join()
    finally:
        ray.shutdown()
    assert killed
    assert len(outcome.written) == len(set(outcome.written)) == PICTURES
    assert sorted(outcome.written) == sorted(alone.written)
    assert [os.path.basename(s["image"]) for s in outcome.skipped] == ["broken.png"]
    assert held(out) == held(tmp_path / "alone")
    ours, theirs = ({p.name for p in f.iterdir() if p.name[0] != "."} for f in (out, tmp_path / "alone"))
    assert ours == theirs


def test_results_of_another_embedding_are_refused_before_a_cluster_is_started(
    package_path, pictures, tmp_path
):
    with Explainer(package_path) as explainer:
        explain_pictures(explainer, pictures[:2], tmp_path / "out", quiet=True)
        explainer._embedding_id = "another"
        with pytest.raises(InputError, match="holds embeddings"):
            explain_with_ray(explainer, package_path, pictures, tmp_path / "out", workers=2, quiet=True)
    assert not ray.is_initialized()
