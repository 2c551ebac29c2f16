"""What each precision loses on a trained encoder and masker.

    python -m benchmarks.precision --json benchmarks/results/precision.json

Accuracy: the digits' encoder with its masker (`python -m demo.digits` trains it), on test scenes that
neither the training nor the calibration saw.  int8 in both forms, weights rounded to the nearest and such
that they make up for their errors, of seven and of eight bits, as written and as this CPU's kernels compute
it; at last with the layers in float that the gate asks for on these scenes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.common.record import command, finish
from export.graph import from_torch
from export.graph.fuse import Fused, run_torch
from export.graph.session import Session, widened
from export.graph.structure import Structure
from export.int8.calibrate import ranges
from export.int8.for_onnxruntime import quantize_cpu
from export.int8.for_tensorrt import insert_qdq
from export.int8.write import cpu_form, fit, in_float, trt_form
from export.package.source import calibration_images, fitted
from runtime.media.sources import find_images
from runtime.package.reference import Reference
from train.checkpoint import load_nem
from train.nem import NEM

DEMO = Path("demo/out/digits")


def accuracy(masker: Path, calibration: Path, held_out: Path, images: int) -> list[dict[str, Any]]:
    """A row for each precision, form, method and width of weights."""
    nem = load_nem(masker)
    size = nem.encoder.input
    tests = fitted(find_images(held_out)[:images], size)
    reference = Reference(tests, *run_torch(Fused(nem, precision="fp32"), tests))
    calibrated = calibration_images(calibration, size)
    rows = []
    for how, precision, outputs in _outputs(nem, calibrated, tests):
        figures = reference.compare(*outputs, precision=precision).to_json()
        rows.append({"masker": masker.parent.name, "precision": precision, **how, **figures})
        print(rows[-1], flush=True)
    return rows


def _outputs(
    nem: NEM, calibrated: np.ndarray, tests: np.ndarray
) -> Iterator[tuple[dict[str, Any], str, tuple[np.ndarray, np.ndarray]]]:
    """(what was done, precision, outputs for the test images)."""
    for precision in ("fp16", "bf16"):
        yield {"form": "torch"}, precision, run_torch(Fused(nem, precision=precision), tests)
    full, half = _graph(nem, "fp32"), _graph(nem, "int8")
    wide = widened(half)
    done: dict[str, Any] = {"calibration_images": len(calibrated)}
    structure = Structure(half)
    floats = structure.heads() | structure.stems()
    nearest = insert_qdq(half, ranges(wide, calibrated), keep_float=floats)
    trt = trt_form(half, calibrated)
    for rounding, model in (("nearest", nearest), ("made up", trt.build(()))):
        yield done | {"form": "trt", "rounding": rounding}, "int8", trt.run(model, tests)
    bounds, heads = ranges(full, calibrated), Structure(full).heads()
    for reduce_range in (True, False):
        nearest = quantize_cpu(full, bounds, heads=heads, reduce_range=reduce_range)
        made_up = cpu_form(full, calibrated, reduce_range=reduce_range).build(())
        for rounding, model in (("nearest", nearest), ("made up", made_up)):
            for as_written in (False, True):
                how: dict[str, Any] = {
                    "form": "cpu",
                    "rounding": rounding,
                    "reduce_range": reduce_range,
                    "computed": "as written" if as_written else "by onnxruntime's int8 kernels here",
                }
                yield done | how, "int8", Session(model, as_written=as_written).explain(tests)
    reference = Reference(tests, *run_torch(Fused(nem, precision="fp32"), tests))
    for form in (trt, cpu_form(full, calibrated)):
        model, _, _ = fit(form, reference, step=lambda _: nullcontext())
        how = {"form": form.name.rpartition(" ")[2], "rounding": "made up", "layers": len(form.layers)}
        yield (
            done | how | {"layers_back_to_float": len(in_float(form, model))},
            "int8",
            form.run(model, tests),
        )


def _graph(nem: NEM, precision: str) -> onnx.ModelProto:
    size = nem.encoder.input
    fused = Fused(nem, precision=precision)
    opset = from_torch.OPSETS[precision]
    model = from_torch.export_onnx(fused, height=size.height, width=size.width, opset=opset)
    return from_torch.simplify(model)[0]


def main() -> int:
    """Returns 0."""
    p = command("precision", __doc__)
    p.add_argument("--masker", type=Path, default=DEMO / "run/masker.safetensors")
    p.add_argument("--calibration", type=Path, default=DEMO / "scenes/train")
    p.add_argument("--held-out", type=Path, default=DEMO / "scenes/test")
    p.add_argument("--images", type=int, default=64, help="held-out images (%(default)s)")
    options = p.parse_args()
    return finish(
        options.json, accuracy(options.masker, options.calibration, options.held_out, options.images)
    )


if __name__ == "__main__":
    sys.exit(main())
