"""The configuration of NVIDIA DeepStream for a converted package."""

from __future__ import annotations

from pathlib import Path

from runtime.package.folder import Package

_MODES = {"fp32": 0, "fp16": 2}
"""DeepStream's `network-mode`.  The graph's types decide the precision; this only names the engine file."""


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
