"""nemu convert (python -m export.convert): write a package in the form of another program.  Needs no torch.

formats:
  onnx          one ONNX file; --float-nchw: input float32 (N, 3, H, W), values 0 to 255; --embedding-only:
                without the mask and all that only the mask needs, for indexing in bulk
  deepstream    the ONNX file with --float-nchw, and config_infer_NAME.txt for Gst-nvinfer beside it
  triton        a model repository for Triton Inference Server: NAME/config.pbtxt, NAME/1/…

An ONNX file is written only if it gives the reference outputs of the package within the gate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export import triton
from export.graph import variants
from runtime.atomic import atomic_file, refuse_existing
from runtime.cli import console
from runtime.package.folder import Package

EXAMPLE = """examples:
  nemu convert demo.nemu --format onnx --embedding-only --out index.onnx
  nemu convert demo.nemu --format deepstream --precision fp16 --out demo.onnx
  nemu convert demo.nemu --format triton --out models

exit codes: 0 ok, 1 error, 2 usage, 3 the parity gate failed (nothing is written)
"""
_MODES = {"fp32": 0, "fp16": 2}
"""DeepStream's `network-mode`.  The graph's types decide the precision; this only names the engine file."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="nemu convert",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("package", type=Path, metavar="PACKAGE", help="folder NAME.nemu")
    p.add_argument("--format", choices=("onnx", "deepstream", "triton"), required=True)
    p.add_argument("--out", type=Path, required=True, help="FILE.onnx, or the folder of models")
    p.add_argument("--precision", choices=variants.PRECISIONS, default="fp32", help="(%(default)s)")
    p.add_argument("--float-nchw", action="store_true", help="with --format onnx")
    p.add_argument("--embedding-only", action="store_true", help="with --format onnx")
    p.add_argument(
        "--served-by",
        choices=triton.BACKENDS,
        default="onnxruntime",
        help="with --format triton (%(default)s)",
    )
    p.add_argument("--force", action="store_true", help="replace what an earlier run wrote")
    console.add_arguments(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    p = parser()
    o = p.parse_args(argv)
    if o.format != "onnx" and (o.float_nchw or o.embedding_only):
        p.error("--float-nchw and --embedding-only go with --format onnx")
    if o.format == "triton" and o.precision != "fp32":
        p.error(
            "--precision goes with --format onnx and deepstream; triton serves the float32 graph, or plans"
        )
    return console.exit_code(lambda: _run(o), stopped="nothing half-written was left behind")


def _run(o: argparse.Namespace) -> int:
    package = Package.open(o.package)
    written, said, following = _triton(package, o) if o.format == "triton" else _file(package, o)
    facts = {
        "format": o.format,
        "embedding_id": package.manifest.embedding_id,
        "written": [str(path) for path in written],
    }
    console.answer(o, facts, f"{said}\nnext: {following}")
    return 0


def _triton(package: Package, o: argparse.Namespace) -> tuple[list[Path], str, str]:
    """The files written, a sentence about them, and the next command."""
    folder = triton.write_repository(package, o.out, backend=o.served_by, force=o.force)
    return [folder], f"{folder}: served by {o.served_by}", f"tritonserver --model-repository={o.out}"


def _file(package: Package, o: argparse.Namespace) -> tuple[list[Path], str, str]:
    deepstream = o.format == "deepstream"
    config = o.out.with_name(f"config_infer_{o.out.stem}.txt")
    if deepstream:
        refuse_existing(config, force=o.force)
    variants.write(
        package,
        o.out,
        precision=o.precision,
        nchw=o.float_nchw or deepstream,
        embedding_only=o.embedding_only,
        force=o.force,
    )
    said = f"{o.out}: gives the reference outputs of {o.package}"
    if not deepstream:
        return [o.out], said, f"trtexec --onnx={o.out}"
    with atomic_file(config, force=o.force) as file:
        file.write_text(deepstream_config(package, o.out, precision=o.precision))
    return [o.out, config], said, f"nvinfer config-file-path={config}"


def deepstream_config(package: Package, file: Path, *, precision: str, batch: int = 1) -> str:
    """Text of config_infer for Gst-nvinfer; both outputs are passed on raw, as tensor metadata.

    Gst-nvinfer feeds net-scale-factor · (x − offset), float and planar.  With 1 and 0 it feeds x, which the
    graph normalises.  Source: the documentation of Gst-nvinfer.

    Args:
        file: ONNX with a float32 (N, 3, H, W) input, as `export.graph.variants.write` makes with `nchw`.
        precision: `fp32` or `fp16`.
    """
    size = package.manifest.input
    return f"""# {package.manifest.embedding_id}
[property]
onnx-file={file.name}
model-engine-file={file.name}_b{batch}_gpu0_{precision}.engine
batch-size={batch}
network-mode={_MODES[precision]}
network-type=100
output-tensor-meta=1
infer-dims=3;{size.height};{size.width}
model-color-format=0
net-scale-factor=1
offsets=0;0;0
"""


if __name__ == "__main__":
    sys.exit(main())
