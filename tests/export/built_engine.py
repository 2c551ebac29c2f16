"""An engine that was not compiled, for tests of what happens around a build."""

from __future__ import annotations

from export.engine.builder import BuiltEngine
from runtime.package.manifest import OUTPUTS


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
