"""Fixtures for every folder of tests: images, a tiny encoder's weights, a masker, a package.

What takes seconds to make is made once, also when pytest-xdist runs several workers: the workers share it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy and torch are imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` gives a folder that `make(folder)` has filled, once for all workers.

    Tests only read from it: every test and worker gets the same one.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that of the whole run

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place = root / f"shared-{name}"
        with FileLock(root / f"shared-{name}.lock"):
            if not (place / ".made").exists():
                shutil.rmtree(place, ignore_errors=True)  # half made by a worker that failed
                place.mkdir()
                make(place)
                (place / ".made").touch()
        return place

    return folder


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no index."""
    folder = tmp_path_factory.mktemp("index")
    command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(folder), "tqdm"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("pip reaches no package index")


@pytest.fixture(scope="session")
def photographs(once: Once) -> Path:
    """A folder of 12 scenes of the demo world, 96 x 96, one of them in a subfolder."""

    def make(folder: Path) -> None:
        from PIL import Image

        from demo.world import scene

        (folder / "photographs/more").mkdir(parents=True)
        for i in range(12):
            where = folder / "photographs" / ("more" if i == 7 else "")
            Image.fromarray(scene(i, split="train").image).save(where / f"{i:02d}.png")

    return once("photographs", make) / "photographs"


@pytest.fixture(scope="session")
def weights(once: Once) -> Path:
    """Weights of timm's test_resnet, seeded, as a user would bring them."""

    def make(folder: Path) -> None:
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=7)
        for module in model.modules():  # statistics that a frozen BatchNorm must keep
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        save_file(model.state_dict(), folder / "encoder.safetensors")

    return once("weights", make) / "encoder.safetensors"


@pytest.fixture(scope="session")
def train_arguments(photographs: Path, weights: Path) -> list[str]:
    """Options of `nemu train` for a run of a few seconds; the test adds `--out` and `--steps`."""
    return [
        *("--encoder", "timm/test_resnet", "--weights", str(weights), "--image-size", "64"),
        *("--data", str(photographs), "--batch-size", "4", "--area-weight", "1", "--quiet", "--no-toward"),
    ]


@pytest.fixture(scope="session")
def masker(train_arguments: list[str], once: Once) -> Path:
    """A masker.safetensors after four steps, and the other files of its run."""

    def make(folder: Path) -> None:
        from train.__main__ import WORTHLESS, main

        # four steps leave the mask grey, which the exit code says
        arguments = [*train_arguments, "--steps", "4", "--out", str(folder / "masker")]
        assert main(arguments) in (0, WORTHLESS)

    return once("masker", make) / "masker/masker.safetensors"


@pytest.fixture(scope="session")
def package(masker: Path, once: Once) -> Path:
    """A package of that masker, fp32 and fp16, without engines."""

    def make(folder: Path) -> None:
        from export.build_engine import main

        assert main(["--masker", str(masker), "--out", str(folder / "tiny.nemu"), "--quiet"]) == 0

    return once("package", make) / "tiny.nemu"
