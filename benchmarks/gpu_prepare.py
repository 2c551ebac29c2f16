"""Make a small package with TensorRT-RTX engines, here and without a GPU, to take to a machine that has one.

    python -m benchmarks.gpu_prepare FOLDER
    PACKAGE=FOLDER/small.nemu benchmarks/gpu_check.sh OUTDIR      # there

The digits' encoder with a masker of a few steps, and two engines of the same weights: with the mask, and the
encoder alone.  About 51 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu_package import FORMS, build_command
from train.__main__ import WORTHLESS

ENCODER = ("--encoder", "timm/resnet10t", "--weights", "demo/encoder.safetensors", "--image-size", "96")
STEPS = ("--steps", "4", "--batch-size", "4")


def main(argv: list[str] | None = None) -> int:
    """Run the project's own commands; the exit status of the first that fails."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_prepare", description=__doc__)
    p.add_argument("folder", type=Path, help="gets small.nemu")
    options = p.parse_args(argv)
    package = options.folder / "small.nemu"
    with tempfile.TemporaryDirectory(prefix="nemu-gpu-prepare-") as folder:
        masker = str(Path(folder) / "run/masker.safetensors")
        data = ("--data", "export/photographs", "--out", str(Path(masker).parent), "--quiet")
        train = ["train", *ENCODER, *data, *STEPS]
        pack = ["export.build_engine", "--masker", masker, "--out", str(package), "--quiet"]
        if (status := _run(train)) not in (0, WORTHLESS) or (status := _run(pack)):
            return status
    for engine in FORMS:
        command = build_command(package, "rtx", engine)
        if not command and engine != "toward":  # of which most packages have none
            print('no engines: pip install "nemu[rtx]", and they are built here', file=sys.stderr)
        elif command and (status := _run(command)):
            return status
    megabytes = sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) / 1e6
    print(f"{package}: {megabytes:.0f} MB")
    return 0


def _run(command: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", *command]).returncode


if __name__ == "__main__":
    sys.exit(main())
