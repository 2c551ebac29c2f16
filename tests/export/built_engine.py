"""Engines for tests: compiled by TensorRT-RTX, or not compiled at all."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from export.engine.builder import BuiltEngine, build
from runtime.package.manifest import OUTPUTS

rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


def rtx_engine(onnx, precision, *, batch=(1, 1, 8), progress=False, **options) -> BuiltEngine:
    return build(onnx, flavour="rtx", precision=precision, batch=batch, progress=progress, **options)


def built_engine(plan: bytes, *, outputs=OUTPUTS, capability, **fields) -> BuiltEngine:
    """What `export.engine.builder.build` returns for its own arguments: flavour, batch, precision, …"""
    return BuiltEngine(
        plan=plan,
        version="1.7.1.116",
        compute_capability=capability,
        tensor_types={},
        inputs={},
        outputs=dict.fromkeys(outputs, ("FLOAT", ())),
        flags={},
        build_seconds=0.0,
        **{name: fields[name] for name in ("flavour", "batch", "precision")},
    )
