"""What several rooms' tests need: photographs, a tiny encoder's weights, a masker, a package, an index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no index."""
    folder = tmp_path_factory.mktemp("index")
    command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(folder), "tqdm"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("pip reaches no package index")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 scenes of the demo world, 96 x 96, one of them in a subfolder."""
    from PIL import Image

    from demo.world import scene

    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for i in range(12):
        where = folder / "more" if i == 7 else folder
        Image.fromarray(scene(i, split="train").image).save(where / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's test_resnet, seeded, as a user would bring them."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    model = timm.create_model("test_resnet", num_classes=7)
    for module in model.modules():  # statistics that a frozen BatchNorm must keep
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def train_arguments(photographs: Path, weights: Path) -> list[str]:
    """Options of `python -m train` for a run of a few seconds; `--out` and `--steps` are the test's."""
    return [
        *("--encoder", "timm/test_resnet", "--weights", str(weights), "--image-size", "64"),
        *("--data", str(photographs), "--batch-size", "4", "--area-weight", "1", "--quiet", "--no-toward"),
    ]


@pytest.fixture(scope="session")
def masker(train_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masker.safetensors after four steps."""
    from train.__main__ import WORTHLESS, main

    out = tmp_path_factory.mktemp("run") / "masker"
    # four steps leave the mask grey, which the exit code says
    assert main([*train_arguments, "--steps", "4", "--out", str(out)]) in (0, WORTHLESS)
    return out / "masker.safetensors"


@pytest.fixture(scope="session")
def package(masker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of that masker, fp32 and fp16, without engines."""
    from export.build_engine import main

    out = tmp_path_factory.mktemp("package") / "tiny.nemu"
    assert main(["--masker", str(masker), "--out", str(out), "--quiet"]) == 0
    return out
