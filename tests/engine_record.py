"""The sidecar of an engine, for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from runtime.package.folder import Package
from runtime.package.manifest import EngineRecord
from runtime.package.records import ParityRecord


def engine_record(package: Package, plan: bytes, /, **changes: Any) -> EngineRecord:
    """The sidecar of a plan: TensorRT 10.3, compute capability 8.9, fp16, with these changes."""
    fields = {
        "flavour": "tensorrt",
        "version": "10.3.0.30",
        "compute_capability": "8.9",
        "precision": "fp16",
        "tensor_types": {"HALF": 1},
        "batch": (1, 1, 4),
        "onnx": "model.fp16.onnx",
        "onnx_sha256": "0",
        "package": package.hash,
        "flags": {},
        "parity": ParityRecord(not_run="unavailable"),
        "build_seconds": 1.0,
        "sha256": hashlib.sha256(plan).hexdigest(),
    }
    return EngineRecord(**{**fields, **changes})
