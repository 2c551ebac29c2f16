"""The precisions a package can hold, each a graph of its own: explicit types, no flags at build time."""

from __future__ import annotations

GRAPHS = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
"""Precision → the package's file.  fp16 is the half torch module exported: float32 only at the boundary."""
