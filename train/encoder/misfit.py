"""How a state dict differs from a module's, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

EXAMPLES = 3


def misfit(module: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """Counts and a few examples of the tensors that do not fit, or None if all do."""
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    kinds = {
        "missing": [k for k in wanted if k not in given],
        "not of this model": [k for k in given if k not in wanted],
        "of another shape": [
            f"{k} {given[k]} for {wanted[k]}" for k in wanted if k in given and given[k] != wanted[k]
        ],
    }
    said = [f"{len(names)} {kind} ({_examples(names)})" for kind, names in kinds.items() if names]
    return f"of {len(wanted)} tensors " + "; ".join(said) if said else None


def _examples(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", …" if len(names) > EXAMPLES else "")
