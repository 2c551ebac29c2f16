"""Ray Data on a local cluster of two workers, of which one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.bulk.cluster import explain_with_ray
from runtime.bulk.images import explain_images
from runtime.bulk.journal import ROWS
from runtime.errors import InputError
from runtime.media.sources import find_named_images
from runtime.package.folder import Package
from tests.runtime.run import lines

ray = pytest.importorskip("ray")
IMAGES = 60


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(IMAGES):
        noise = np.random.default_rng(i).integers(0, 256, (400, 600, 3), dtype=np.uint8)  # slow to write
        Image.fromarray(noise).save(folder / f"{i:03}.bmp")
    (folder / "broken.png").write_text("no picture")
    return find_named_images([folder])


def held(folder) -> dict[str, list[float]]:
    names = [line["name"] for line in lines(folder)]
    assert len(names) == len(set(names))
    return {name: row.tolist() for name, row in zip(names, np.load(folder / ROWS), strict=True)}


def workers() -> list[int]:
    """Ids of the Ray processes that hold our workers."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(command.parent.name))
    return found


def test_killed_worker_loses_and_repeats_no_image(package_path, images, tmp_path):
    killed = []
    out, package = tmp_path / "out", Package.open(package_path)

    def kill_one():
        """Kill a worker's process as soon as there is a result."""
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
            outcome = explain_with_ray(explainer, package, images, out, workers=2, quiet=True)
            whole = explain_images(explainer, images, tmp_path / "whole", package=package, quiet=True)
        killer.join()
    finally:
        ray.shutdown()
    assert killed
    assert len(outcome.written) == len(set(outcome.written)) == IMAGES
    assert sorted(outcome.written) == sorted(whole.written)
    assert [os.path.basename(s["image"]) for s in outcome.skipped] == ["broken.png"]
    assert held(out) == held(tmp_path / "whole")
    ours, theirs = ({p.name for p in f.iterdir() if p.name[0] != "."} for f in (out, tmp_path / "whole"))
    assert ours == theirs


def test_other_embedding_ids_start_no_cluster(tiny, images, tmp_path):
    with Explainer(tiny) as explainer:
        explain_images(explainer, images[:2], tmp_path / "out", quiet=True)
        explainer._embedding_id = "another"
        with pytest.raises(InputError, match="holds embeddings"):
            explain_with_ray(explainer, tiny, images, tmp_path / "out", workers=2, quiet=True)
    assert not ray.is_initialized()
