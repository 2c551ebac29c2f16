"""Does the canary of an index catch what changes it?  On packages of real encoders.

python -m benchmarks.canary one.nemu other.nemu --images unseen/ --json benchmarks/results/canary.json
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.record import command, finish
from runtime import Explainer
from runtime.__main__ import main as nemu
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.index import Index
from runtime.index.canary import check
from runtime.package.folder import GRAPHS, Package

INPUTS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "resized bilinear": {"interpolation": "bilinear"},
    "resized bicubic": {"interpolation": "bicubic"},
    "a smaller crop": {"crop_pct": 0.875},
}
"""What changed → fields of the package's input."""

CPU = "onnxruntime"


class HalfOnCpu(OnnxRuntimeBackend):
    """The half graph, whose arithmetic a CPU does in float32."""

    models = GRAPHS


def changes(package: Package, others: list[Package]) -> Iterator[tuple[str, Explainer]]:
    """What has changed, and the explainer of the same package after it."""
    same = package.manifest
    for name, fields in INPUTS.items():
        other = dataclasses.replace(same, input=dataclasses.replace(same.input, **fields))
        if name == "unchanged" or other.input != same.input:
            yield name, Explainer(dataclasses.replace(package, manifest=other), backend=CPU)
    yield "fp16", Explainer(package, backend=HalfOnCpu(package, precision="fp16"))
    for other_package in others:
        yield f"encoder {other_package.manifest.encoder.id}", Explainer(other_package, backend=CPU)


def main(argv: list[str] | None = None) -> None:
    parser = command("canary", __doc__)
    parser.add_argument("packages", type=Path, nargs="+", help="of at least two encoders, with a fp16 graph")
    parser.add_argument("--images", type=Path, required=True, help="photographs that training did not see")
    options = parser.parse_args(argv)
    packages, rows = [Package.open(path) for path in options.packages], []
    for package in packages:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "index"
            of = [str(package.path), str(options.images), "--out", str(out)]
            if code := nemu(["index", *of, "--backend", CPU, "--quiet"]):
                raise SystemExit(code)
            with Index.open(out) as index:
                for name, explainer in changes(package, [p for p in packages if p is not package]):
                    with explainer:
                        found = check(index, explainer, quiet=True).to_json()
                    who = {"encoder": package.manifest.encoder.id, "changed": name}
                    rows.append({**who, "rows": index.record.rows, **found})
    finish(options.json, rows)


if __name__ == "__main__":
    main()
