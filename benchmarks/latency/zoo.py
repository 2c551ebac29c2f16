"""Encoders at 224 pixels, each through the same commands to a package with a TensorRT-RTX engine.

    python -m benchmarks.zoo --out zoo [--json FILE] [timm/NAME …]

Weights are random (what is shown is that the graphs compile, with the right types and names) and the
masker is trained for two steps.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.onnx_sessions import random_weights
from benchmarks.common.record import command, lines, meta, write
from benchmarks.quality.maskers import train_masker
from export.build_engine import main as build
from export.package.source import PHOTOGRAPHS
from runtime.errors import InputError
from runtime.package.folder import Package
from train.run_folder import MASKER

ENCODERS = (
    "timm/resnet50",
    "timm/convnext_tiny",
    "timm/vit_small_patch16_224",
    "timm/vit_small_patch14_dinov2",
)


def run(name: str, out: Path, scratch: Path) -> dict[str, Any]:
    """Train two steps in `scratch`, build, and read back what was built."""
    stem = name.removeprefix("timm/")
    weights, trained, package = scratch / f"{stem}.safetensors", scratch / stem, out / f"{stem}.nemu"
    random_weights(name, weights)
    try:
        train_masker(
            [
                *("--encoder", name, "--weights", str(weights), "--image-size", "224", "--quiet"),
                *("--data", str(PHOTOGRAPHS), "--out", str(trained), "--no-toward"),
                *("--steps", "2", "--batch-size", "4"),
            ]
        )
    except InputError as error:
        return {"encoder": name, "exit_code": error.exit_code}
    options = ["--masker", str(trained / MASKER), "--target", "rtx", "--out", str(package)]
    if code := build([*options, "--force", "--quiet"]):
        return {"encoder": name, "exit_code": code}
    opened = Package.open(package)
    record = opened.engines()[0].record
    return {
        "encoder": name,
        "exit_code": 0,
        "engine": f"{record.flavour} {record.version}",
        "weighted_layers": record.flags["weighted_layers"],
        "build_seconds": round(record.build_seconds, 2),
        "fp32_embedding_error": opened.manifest.parity["onnx fp32"].embedding_error,
        "fp16_embedding_error": opened.manifest.parity["torch fp16"].embedding_error,
        "fp16_mask_iou": opened.manifest.parity["torch fp16"].mask_iou,
    }


def main() -> int:
    """Returns 0 if every encoder went through."""
    parser = command("zoo", __doc__, json=False)
    parser.add_argument("encoders", nargs="*", default=ENCODERS)
    parser.add_argument("--out", type=Path, required=True, help="folder for the packages")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [run(name, options.out, Path(scratch)) for name in options.encoders]
    if options.json:
        write(options.json, {"meta": meta(), "rows": rows})
    print(f"\n{lines(rows)}")
    return max(row["exit_code"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
