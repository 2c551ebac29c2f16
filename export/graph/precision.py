"""The precisions a package can hold, each a graph of its own: explicit types, no flags at build time.

fp32  the module as it is
fp16  the half torch module, exported: float32 only at the boundary
bf16  the same in bfloat16, for GPUs from compute capability 8.0 and encoders that leave fp16's range
int8  the half module with quantise–dequantise pairs (`export.int8.for_tensorrt`); onnxruntime has a graph of
      its own (`runtime.backends.onnxruntime.MODELS`)
"""

from __future__ import annotations

OPSETS = {"fp32": 18, "fp16": 18, "bf16": 22, "int8": 20}
"""As low as possible: convolutions in bfloat16 need opset 22, float16 scales need 19."""

AUTO = ("fp16", "int8", "bf16", "fp32")
"""The order in which `--precision auto` tries the precisions that the package holds."""
